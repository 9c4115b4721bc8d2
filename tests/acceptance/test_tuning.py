"""The how-to from a recording to a tuned policy: its commands, typed in their order, on a shorter day."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Process, wait_until
from tests.servers import Database

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/tune-a-policy.md").read_text().split("\n## With the demo's shop\n")[1].split("\n## ")[0]

#: With job control (-m), so that %1 is what it is in a terminal.
SHELL = "set -em\nsave() { cat > $1; }\n"

#: What is other than on the page: how long it takes.
SHORTER = {
    "redis://localhost:6379/0": "{broker}",
    "--for 3m": "--for 60s",
    "seq 10": "seq 2",
    "--seeds 20": "--seeds 20 --tasks 400",
    "--trials 40": "--trials 5 --seeds 20 --split 0.4",
}


def typed(broker: str) -> str:
    """The blocks of the page as one script."""
    script = SHELL
    for language, text in re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL):
        name = re.match(r"# docs/examples/(\w+\.py)\n", text)
        script += f"save {name[1]} <<'END'\n{text}END\n" if name else text
        assert (language == "python") == (name is not None)
    for said, shorter in SHORTER.items():
        assert said in script
        script = script.replace(said, shorter.format(broker=broker))
    return script + "set +e  # wait fails for a job that a signal ended\nwait\n"


@pytest.mark.slow
def test_from_a_recording_to_a_tuned_policy(tmp_path: Path, started: list[Process], valkey: Database) -> None:
    (tmp_path / "typed.sh").write_text(typed(valkey.url))
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    reader = Process("reader", ["bash", "-c", f'cd "{tmp_path}" && exec bash typed.sh'], tmp_path, env=env)
    started.append(reader)
    reader.start()
    wait_until(lambda: reader.status == "exited", 280, "all commands were typed")
    said = reader.logs()
    assert reader.exit_code == 0, said
    (tries,) = re.findall(r"^([\d,]+) tries of tasks are in shop\.jsonl\.gz; 0 were lost\.$", said, re.MULTILINE)
    assert int(tries.replace(",", "")) > 500
    assert "tried 5 other policies." in said
    assert {path.name for path in tmp_path.glob("*.html")} == {"shop.html", "tuned.html", "report.html"}
    assert "<code>1 * Deadline(horizon=6.6)" in (tmp_path / "report.html").read_text()


def test_ctrl_c_ends_the_search_and_shows_what_was_found(tmp_path: Path) -> None:
    """In a terminal, where the search shows how far it is."""
    shown, terminal = os.openpty()
    # What a shell runs in the background ignores Ctrl-C, and so would the command that this process starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    options = ("--workers", "1", "--concurrency", "4", "--tasks", "600", "--trials", "100000", "--seeds", "20")
    command = [sys.executable, "-m", "celery", "-A", "example_project", "dynprio", "tune", *options]
    with subprocess.Popen(
        [*command, str(ROOT / "docs/lab/shop.jsonl.gz")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as running:
        os.close(terminal)
        progress = b""
        while b" 0%  " not in progress and b"%  0" not in progress:
            progress += os.read(shown, 1000)
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate(timeout=200)
    signal.signal(signal.SIGINT, before)
    os.close(shown)
    assert b"searching (Ctrl-C shows what is found)" in progress
    assert running.returncode == 0
    assert re.search(r": tried \d+ other policies before the search was ended\.$", told, re.MULTILINE)
