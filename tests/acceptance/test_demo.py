"""``make demo`` as a user runs it: real processes, and nothing of them is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGINT

import psutil
import pytest

from example_project.demo import __main__ as demo
from example_project.demo.load import expected
from example_project.demo.results import Record, Result, result
from example_project.demo.run import Setup
from tests.processes import Process, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start_demo(tmp_path: Path, started: list[Process]) -> Callable[..., Process]:
    def start(*arguments: str) -> Process:
        command = ["sh", "-c", f'cd "{ROOT}" && exec "$0" -m example_project.demo "$@" > "{tmp_path}/out"']
        made = Process("demo", [*command, sys.executable, *arguments], tmp_path)
        started.append(made)
        made.start()
        return made

    return start


@pytest.mark.slow
def test_checkouts_are_in_time_and_nothing_is_lost(start_demo: Callable[..., Process], tmp_path: Path) -> None:
    running = start_demo("--json")
    wait_until(lambda: f"{expected()} of {expected()} tasks started" in running.logs(), 120, "the plain run is over")
    assert running.wait(240) == 0
    runs = json.loads((tmp_path / "out").read_text())
    assert set(runs) == {"plain", "static", "dynprio"}
    for run in runs.values():
        counts = {name: run[name] for name in ("sent", "run", "lost", "run_twice")}
        assert counts == {"sent": expected(), "run": expected(), "lost": 0, "run_twice": 0}
    assert runs["plain"]["moves"] is None
    assert runs["dynprio"]["moves"] > 0
    late, prompt = (runs[name]["classes"]["checkout"]["in_time"] for name in ("plain", "dynprio"))
    assert late < 0.7
    assert prompt > late + 0.2
    behind, ahead = (runs[name]["classes"]["report (others)"]["p50"] for name in ("static", "dynprio"))
    assert ahead < behind / 2, "static priorities leave the others behind the flood"


def test_ctrl_c_stops_all_that_was_started(start_demo: Callable[..., Process], tmp_path: Path) -> None:
    running = start_demo()
    wait_until(lambda: "waiting" in running.logs(), 60, "the load began")
    children = psutil.Process(running.pid).children(recursive=True)
    arguments: set[str] = set()
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it may have ended
            arguments.update(child.cmdline())
    assert {"-A", "worker"} <= arguments
    running.signal(SIGINT)
    assert running.wait() == 130
    assert "everything that it started is stopped" in running.logs()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert (tmp_path / "out").read_text() == ""


def test_a_task_that_is_lost_or_runs_twice_is_found(tmp_path: Path) -> None:
    lines = [
        *("sent\ta\t10.0\tcheckout", "sent\tb\t10.0\tcheckout", "sent\tc\t11.0\treport (flood)"),
        *("ran\ta\t11.5\t", "ran\tb\t14.0\t", "ran\tb\t15.0\t"),
    ]
    (tmp_path / "record").write_text("\n".join(lines) + "\nran\tc\t16")  # half a line: the worker is still writing
    record = Record(tmp_path / "record")
    assert record.catch_up()
    found = result(record, expected=4, moves=7)
    assert (found.sent, found.run, found.lost, found.run_twice, found.moves) == (3, 2, 2, 1, 7)
    assert not found.clean
    checkout = found.classes["checkout"]
    assert (checkout.tasks, checkout.p50, checkout.max, checkout.in_time) == (2, 4.0, 4.0, 0.5)


@pytest.mark.parametrize(("lost", "twice"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("where", ["plain", "static", "dynprio"])
def test_the_exit_code_tells(monkeypatch: pytest.MonkeyPatch, lost: int, twice: int, where: str) -> None:
    def run_load(_directory: Path, _broker: str, _progress: object, setup: Setup) -> Result:
        unclean = setup.name == where
        return Result({}, 1, 1, lost * unclean, twice * unclean, moves=None, seconds=1.0)

    monkeypatch.setattr(demo, "run_load", run_load)
    monkeypatch.setattr(demo, "_server", lambda *_: "redis://127.0.0.1:1")
    assert demo.demo(as_json=False) == 1


def test_reading_the_deadlines_of_its_tasks_warns_of_nothing() -> None:
    command = [sys.executable, "-c", "import example_project.demo.results"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stderr == ""


def test_without_a_server_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 2
    assert capsys.readouterr().err == ("demo: no embedded server is installed: use `make demo`, which installs one\n")
