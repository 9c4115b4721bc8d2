"""README's quickstart, typed word by word into an empty folder; only the port is another."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import Process, free_port, wait_until

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "README.md").read_text().split("\n## Quickstart\n")[1].split("\n## ")[0]

#: A shell that does what a reader does: types the commands, and saves each file in the folder where they are. With job
#: control (-m), so that %1 and %2 are what they are in a terminal.
SHELL = "set -em\nsave() { cat > $1; }\n"


def typed(port: int) -> str:
    """The blocks of the quickstart in their order, as one script."""
    script = SHELL
    for name, language, text in re.findall(r"(?:`(\w+\.py)`:\n\n)?```(sh|python)\n(.*?)```", QUICKSTART, re.DOTALL):
        if text.startswith("kill"):
            script += "set +e  # wait fails for a job that a signal ended\n"
        script += text if language == "sh" else f"save {name} <<'END'\n{text}END\n"
    return script.replace("6379", str(port)) + "wait\n"


def running_in(directory: Path) -> list[str]:
    """The command lines of all processes that were started in a folder or below it."""
    everywhere = [each.info for each in psutil.process_iter(["cwd", "cmdline"])]
    return [" ".join(each["cmdline"]) for each in everywhere if Path(each["cwd"] or "/").is_relative_to(directory)]


@pytest.mark.slow
def test_a_mail_moves_ahead_of_the_reports_when_its_deadline_comes_near(tmp_path: Path, started: list[Process]) -> None:
    port = free_port()
    (tmp_path / "typed.sh").write_text(typed(port))
    (tmp_path / "folders").mkdir()
    python = Path(sys.executable).parent
    env = {"PATH": f"{python}:/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path / "folders")}
    command = ["bash", "-c", f'cd "{ROOT}" && exec bash "{tmp_path}/typed.sh"']
    reader = Process("reader", command, tmp_path, env=env)
    started.append(reader)
    reader.start()
    wait_until(lambda: reader.status == "exited", 240, "all commands were typed")
    assert reader.exit_code == 0, reader.logs()
    # The columns are #, place, ..., task, id.
    listed = re.findall(r"^ *(\d+) +(P\d) .* proj\.(mail|report) ", reader.logs(), re.MULTILINE)
    (last, low, _), *then = listed
    assert int(last) >= 99, reader.logs()  # 101, or less if the worker has taken two reports already
    assert [(number, task) for number, _, task in then] == [("1", "mail"), ("2", "report"), ("3", "report")]
    assert then[0][1] < low
    assert running_in(tmp_path / "folders") == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # nobody keeps the port
