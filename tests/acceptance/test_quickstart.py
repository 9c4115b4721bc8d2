"""README's quickstart, typed word by word into an empty folder; only the port is another."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.processes import Process, free_port, wait_until

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "README.md").read_text().split("\n## Quickstart\n")[1].split("\n## ")[0]

#: A shell that does what a reader does: types the commands, and saves each file in the folder where they are.
SHELL = "set -e\nsave() { cat > $1; }\n"


def typed(port: int) -> str:
    """The blocks of the quickstart in their order, as one script."""
    script = SHELL
    for name, language, text in re.findall(r"(?:`(\w+\.py)`:\n\n)?```(\w+)\n(.*?)```", QUICKSTART, re.DOTALL):
        script += text if language == "sh" else f"save {name} <<'END'\n{text}END\n"
    return script.replace("6379", str(port))


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the quickstart's own server needs Python 3.11, as it says")
def test_the_checkout_overtakes_five_hundred_reports(tmp_path: Path, started: list[Process]) -> None:
    (tmp_path / "typed.sh").write_text(typed(free_port()))
    python = Path(sys.executable).parent
    env = {"PATH": f"{python}:/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = ["bash", "-c", f'cd "{ROOT}" && exec bash "{tmp_path}/typed.sh"']
    reader = Process("reader", command, tmp_path, env=env)
    started.append(reader)
    reader.start()
    wait_until(lambda: reader.logs().count("succeeded") > 500 or reader.status == "exited", 240, "all tasks ran")
    ran = re.findall(r"Task proj\.(\w+)\[\S+\] received", reader.logs())
    assert (ran[0], len(ran), ran.count("checkout")) == ("checkout", 501, 1), reader.logs()[-3000:]
    wait_until(lambda: "embedded reprioritizer started" in reader.logs(), 30, "the worker's own reprioritizer runs")
