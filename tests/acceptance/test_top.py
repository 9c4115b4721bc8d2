"""``dynprio top`` in a real terminal, over a real broker, worker and reprioritizer."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from celery.result import AsyncResult

from celery_dynprio.models import HELD
from celery_dynprio.operators.workers import Workers
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database
from tests.terminal import Terminal

BODY: Final = """
from celery_dynprio import DynPrio, Weight, dynprio_task

app.conf.update(dynprio_embedded=False, dynprio_queues=["celery", "mails"])
app.conf.setdefault("dynprio_policy", 1 * Weight())
dynprio = DynPrio(app)

@dynprio_task(app=app, name="shop.report", key="tenant")
def report(tenant): return tenant

@dynprio_task(app=app, name="shop.checkout", weight=9, deadline=3600, key="tenant")
def checkout(tenant): return tenant

@dynprio_task(app=app, name="shop.late", weight=9, deadline=0.001, key="tenant")
def late(tenant): return tenant
"""

#: The same with a policy that never gives a score.
BROKEN: Final = f"""
from celery_dynprio import Age

class Broken(Age):
    def bind(self, context): raise RuntimeError("broken")

app.conf.dynprio_policy = 1 * Broken()
{BODY}"""


@pytest.fixture
def open_top() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(project: Project, *options: str, **size: int) -> Terminal:
        command = [sys.executable, "-m", "celery", "-A", project.name, "dynprio", "top", "--interval", "0.2", *options]
        terminals.append(Terminal(command, project.directory, project.env, **size))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def place(module: Any, task_id: str) -> int | None:
    with module.dynprio.operations() as operations:
        turns = operations.pending(workers=Workers()).turns
    return next((turn.place for turn in turns if turn.task.id == task_id), None)


def shown_at(top: Terminal, name: str) -> str:
    """Wait until the first task is shown there; its line."""
    return top.wait_until(lambda lines: name in lines[10].split()[:2], f"a task in {name}")[10]


def test_an_operator_sees_and_steers(  # noqa: PLR0915 - one session
    make_project: MakeProject,
    valkey: Database,
    start_celery: StartCelery,
    start_worker: StartWorker,
    open_top: Callable[..., Terminal],
) -> None:
    project = make_project(valkey.url, BODY)
    module = project.load()
    # A worker that takes nothing of what is looked at, so that it stays there.
    start_worker(project, "other", pool="solo", args=["-Q", "mails"])
    start_celery(project, "dynprio", "run", "--interval", "0.2", ready_line="dynprio ready")
    reports = [module.report.delay("ada").id for _ in range(40)]
    checkouts = [module.checkout.delay("bob").id for _ in range(3)]
    module.report.apply_async(("eve",), queue="mails")

    top = open_top(project)
    lines = top.wait_until(
        lambda lines: (
            "(dedicated)" in lines[2]
            and lines[22] == "sorted by turn, 43 of 43 read"
            and "! no worker answers" in lines[8]
            and "shop.checkout" in lines[10]
            and any(checkouts[0][:8] in line for line in lines)
        ),
        "who leads, and all 43 in order",
    )
    assert len(lines) == 24
    assert lines[0].startswith("dynprio top  celery  ")
    assert lines[1].startswith("front 43  parked 0  held 0  0 workers, 0 slots  moves/s ")
    assert [line[:2] for line in lines[3:8]] == ["P0", "P1", "P2", "P3", "P4"]
    assert [line[40:42] for line in lines[3:8]] == ["P5", "P6", "P7", "P8", "P9"]
    assert lines[9].split() == ["#", "place", "score", "waited", "deadline", "key", "start", "task", "id"]
    assert lines[10].split()[0] == "1"
    assert lines[23].startswith("q quit  ? help")

    top.press("?")
    top.wait_for("?  this help")
    top.press("?")
    top.wait_for("shop.checkout")

    top.press("/late\r")
    top.wait_for("no tasks are waiting")
    # Pinned, so that only keys move it: what moves while the screen is read may be missing on it for once.
    late = module.late.apply_async(("\x1b[2J<script>",), priority=9).id
    top.wait_for("1 task past the deadline")
    assert "\\x1b" in shown_at(top, "P9")
    top.press("b")
    top.wait_for(f"bump shop.late {late}: done"[:78])
    assert place(module, late) == 0
    shown_at(top, "P0")
    top.press("h")
    top.wait_for(f"hold shop.late {late}: done"[:78])
    assert place(module, late) == HELD
    shown_at(top, "held")
    top.press("r")
    top.wait_for(f"release shop.late {late}: done"[:78])
    assert place(module, late) == 0
    shown_at(top, "P0")
    top.press("e")
    top.wait_for("pinned to P0")
    top.press("\x1b")
    top.wait_for("tasks like late")
    top.press("c")
    top.wait_for("(y/n)")
    top.press("n")
    top.wait_for("nothing was done")
    assert place(module, late) == 0
    top.press("c")
    top.wait_for("(y/n)")
    top.press("y")
    wait_until(lambda: AsyncResult(late, app=module.app).state == "REVOKED")
    assert place(module, late) is None
    top.press("\x1b")
    top.wait_for("43 of 43 read")

    top.press("\x1b[B\x1b[B\x1b[B")  # the fourth task: the first report
    top.press("h")
    top.wait_for("hold shop.report")
    (held,) = (task_id for task_id in reports if place(module, task_id) == HELD)
    top.press("H")
    top.wait_for("only held, 1 of 1 read")
    top.press("r")
    top.wait_for("no tasks are waiting")
    assert place(module, held) is not None
    top.press("H")
    for name in ("score", "wait", "deadline", "key", "turn"):
        top.press("s")
        top.wait_for(f"sorted by {name}, 43 of 43 read")  # until it is read, keys do nothing
    top.press("p")
    top.wait_for("pause all moves on this broker? (y/n)")
    top.press("y")
    top.wait_for("paused: p resumes")
    top.press("p")
    top.press("y")
    top.wait_until(lambda lines: lines[23].startswith("q quit") and "paused: p resumes" not in lines[8], "no pause")
    top.press("\t")
    top.wait_for("dynprio top  mails")
    top.press("\t")
    top.wait_for("dynprio top  celery")

    top.resize(200, 50)
    lines = top.wait_until(
        lambda lines: sum("shop.report" in line for line in lines) > 20 and lines[-1].startswith("q quit"),
        "twice as many tasks",
    )
    assert len(lines) == 50
    assert any(reports[1] in line for line in lines)
    top.press(" ")
    top.wait_for("frozen")
    top.press("\t")
    lines = top.wait_for("no tasks are waiting")
    assert lines[0].startswith("dynprio top  mails")
    assert "frozen" not in lines[0]
    top.press("q")
    assert top.process.wait(60) == 0
    wait_until(lambda: b"\x1b[?1049l" in top.output, 60, "the screen from before is back")


def test_what_does_not_fit_can_be_seen(
    make_project: MakeProject, valkey: Database, open_top: Callable[..., Terminal]
) -> None:
    project = make_project(valkey.url, BODY)
    module = project.load()
    ids = [module.report.delay("漢字" * 6).id for _ in range(30)]
    top = open_top(project)
    lines = top.wait_for("30 of 30 read")
    assert lines[10].endswith("…")
    assert any(task_id[:6] in lines[10] for task_id in ids)
    top.press("\x1b[F")
    top.press("e")
    lines = top.wait_for("Esc goes back")
    assert lines[9].split() == ["task", "shop.report"]
    assert not any("the nearest of them" in line for line in lines)
    top.press("\x1b[6~")
    top.wait_for("the nearest of them")
    top.press("\x1b")
    top.wait_for("30 of 30 read")


def test_a_policy_that_fails_is_an_alarm_and_spoils_no_line(
    make_project: MakeProject, valkey: Database, open_top: Callable[..., Terminal]
) -> None:
    project = make_project(valkey.url, BROKEN)
    project.load().report.delay("ada")
    top = open_top(project, rows=50, columns=200)
    lines = top.wait_until(
        lambda lines: "the policy failed" in lines[8] and lines[49].startswith("q quit"), "the alarm, and the keys"
    )
    assert [line[:2] for line in lines[3:8]] == ["P0", "P1", "P2", "P3", "P4"]
    top.press("q")
    assert top.process.wait(60) == 0
    wait_until(lambda: b"the policy failed" in top.output.rpartition(b"\x1b[?1049l")[2], 60, "it is told again")


def test_a_signal_ends_it_as_a_key_does(
    make_project: MakeProject, valkey: Database, open_top: Callable[..., Terminal]
) -> None:
    top = open_top(make_project(valkey.url, BODY))
    top.wait_for("no tasks are waiting")
    top.process.terminate()
    assert top.process.wait(60) == 128 + signal.SIGTERM
    wait_until(lambda: b"\x1b[?1049l" in top.output, 60, "the screen from before is back")


def test_a_broker_that_hangs_holds_up_no_key(
    make_project: MakeProject, start_server: StartServer, open_top: Callable[..., Terminal]
) -> None:
    server = start_server("valkey")
    # So that a screen that waited for the broker would show it.
    patience = {"socket_timeout": 120, "socket_connect_timeout": 120}
    project = make_project(server.url(), BODY, conf={"broker_transport_options": patience})
    project.load().report.delay("ada")
    top = open_top(project)
    top.wait_for("1 of 1 read")
    server.signal(signal.SIGSTOP)
    top.press("b")
    top.press("?")
    top.wait_for("?  this help", 30)
    top.press("?")
    top.wait_for("shop.report")
    top.press("\t")
    top.wait_until(
        lambda lines: (
            lines[0].startswith("dynprio top  mails")
            and lines[1:22] == ["reading ...", *[""] * 20]
            and lines[22] == "sorted by turn"
        ),
        "the next queue, and nothing of the other",
    )
    top.press("q")
    assert top.process.wait(30) == 0


def test_a_broker_that_goes_away_is_said_to_be_and_comes_back(
    make_project: MakeProject, start_server: StartServer, open_top: Callable[..., Terminal]
) -> None:
    server = start_server("valkey", aof=True)
    project = make_project(server.url(), BODY)
    task_id = project.load().checkout.delay("bob").id
    top = open_top(project, "-Q", "celery", columns=200, rows=50)
    assert "no reprioritizer leads" in "\n".join(top.wait_for(task_id))
    server.kill("SIGKILL")
    lines = top.wait_for("does not answer")
    assert any(task_id in line for line in lines)
    server.restart()
    top.wait_until(lambda lines: "does not answer" not in lines[8] and lines[49].startswith("q quit"), "no alarm")
    top.press("\x03")
    assert top.process.wait(60) == 0


def test_without_a_terminal_it_says_so(make_project: MakeProject, valkey: Database, start_celery: StartCelery) -> None:
    command = start_celery(make_project(valkey.url, BODY), "dynprio", "top")
    assert command.wait() == 2
    assert "Error: top needs a terminal" in command.logs()
