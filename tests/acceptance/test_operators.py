"""Operators at the real command line, with real workers: each command once, and what it must hold through."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from celery import chord
from celery.exceptions import TaskRevokedError

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.models import Run
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import Project, WorkerNode
from tests.processes import wait_until
from tests.servers import Database

#: A task of "gated" runs until the test opens its gate; "ran" tells who ran, in their order.
BODY: Final = """
    from celery_dynprio import Age, DynPrio, FairShare, Weight, dynprio_task

    app.conf.update(
        dynprio_policy=3 * Weight() + 1 * Age(saturation=3600), dynprio_embedded=False, dynprio_interval=0.1,
        task_acks_late=True, worker_send_task_events=True, task_track_started=True,
    )
    dynprio = DynPrio(app)
    fair = 1 * FairShare()
    nothing = "no policy"

    @dynprio_task(app=app, name="shop.gated")
    def gated():
        while app.backend.client.blpop("gate", 60) is None:
            pass

    @dynprio_task(app=app, name="shop.report", key="tenant")
    def report(tenant, page):
        app.backend.client.rpush("ran", page)
        return page

    @dynprio_task(app=app, name="shop.checkout", weight=9, deadline=3600, key="tenant")
    def checkout(tenant, order):
        app.backend.client.rpush("ran", f"order {order}")

    @dynprio_task(app=app, name="shop.total")
    def total(pages):
        return sum(pages)
"""

READY: Final = "dynprio ready"


class Operator:
    """Types ``celery -A proj dynprio ...``."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def __call__(self, *args: str, code: int = 0, answer: str | None = None) -> str:
        """Run one command, at a terminal if there is an ``answer`` to type; what it prints."""
        line = [sys.executable, "-m", "celery", "-A", self._project.name, "dynprio", *args]
        stdin, terminal = (subprocess.DEVNULL, None) if answer is None else (pty.openpty()[::-1])
        if terminal is not None:
            os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            line, cwd=self._project.directory, stdin=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        for descriptor in (stdin, terminal):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), f"{args}: {done.stdout}{done.stderr}"
        if code == 2:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stdout + done.stderr

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self(*args, "--json", code=code))

    def listed(self, *args: str) -> list[str]:
        """The ids that ``list`` shows."""
        return [task["id"] for task in self.json("list", *args)["tasks"]]


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY)


@pytest.fixture
def operator(project: Project) -> Operator:
    return Operator(project)


def ran(client: redis.Redis) -> list[str]:
    rows: Any = client.lrange("ran", 0, -1)
    return [row.decode() for row in rows]


def test_what_waits_is_seen(project: Project, valkey: Database, operator: Operator) -> None:
    module = project.load()
    reports = [module.report.delay("ada", page).id for page in range(3)]
    evil = module.app.send_task("evil\x1b[2J", queue="celery").id
    checkout = module.checkout.delay("bob\x07", 1).id

    lines = operator("list", "--limit", "2").splitlines()
    assert lines[0].split() == ["#", "place", "score", "waited", "deadline", "key", "start", "task", "id"]
    assert lines[1].endswith(f"shop.checkout  {checkout}")
    assert lines[-1] == "2 of 5 shown"
    shown = operator("list")
    assert shown.splitlines()[-1] == "5 tasks"
    assert (r"evil\x1b[2J" in shown, r"bob\x07" in shown, "\x1b" in shown) == (True, True, False)
    assert operator.listed("--limit", "0") == [checkout, *reports, evil]
    assert operator.listed("--task", "shop.rep*", "--key", "ada", "--older", "0", "-Q", "celery") == reports
    assert operator.listed("--held") == []

    told = operator("explain", reports[1][:8])
    assert "number 3" in told
    assert "2 tasks are ahead (P3 1, P9 1)" in told.replace("P2", "P3")
    assert "came to P9 before it" in told
    found = operator.json("explain", reports[1])
    assert [each["factor"] for each in found["factors"]] == ["Weight", "Age"]
    assert found["ahead"][-1]["id"] == checkout
    assert operator("explain", "nobody", code=1) == "Error: task 'nobody' is not pending in celery: not found\n"

    assert "75%  Weight()" in operator("policy")
    runs = [Run("shop.checkout", "bob\x07", 1000.0), Run("shop.report", "ada", 1.0), Run("evil", "", 50.0)]
    RedisUsage(RedisClient.from_app(module.app)).add(runs)
    (compared,) = operator.json("policy", "--try", f"{project.name}:fair")["queues"]
    assert (compared["rise"][0]["id"], compared["down"], compared["overtaken"][0]["task"]) == (
        reports[0],
        1,
        "shop.checkout",
    )
    assert "overtaken" in operator("policy", "--try", f"{project.name}:fair")
    for wrong in ("nowhere:policy", f"{project.name}:nothing"):
        assert f"--try '{wrong}': " in operator("policy", "--try", wrong, code=2)
    assert operator.listed() == [checkout, *reports, evil], "nothing was moved"

    assert operator.json("stats")["queues"][0]["levels"][9]["messages"] == 4
    assert "celery: 5 messages in the front" in operator("stats")


def test_a_filter_asks_before_it_is_followed(project: Project, operator: Operator) -> None:
    module = project.load()
    ids = [module.report.delay("ada", page).id for page in range(3)]
    refused = operator("hold", "--task", "shop.*", code=2)
    assert refused == "Error: hold 3 tasks? Not a terminal: add --yes. Nothing was done.\n"
    assert "Nothing was done." in operator("hold", "--task", "shop.*", answer="n", code=1)
    assert operator.listed("--held") == []
    assert "2 tasks: 2 done" in operator("hold", "--task", "shop.*", "--limit", "2", answer="y")
    assert operator.listed("--held") == ids[:2]
    assert operator("release", "--key", "ada", "--yes").splitlines()[-1] == "2 tasks: 2 done"
    assert operator("release", "--key", "ada", "--yes") == "No pending tasks match.\n"
    assert "not both" in operator("bump", ids[0], "--task", "*", code=2)
    assert "Which tasks to cancel? Give ids, or" in operator("cancel", code=2)
    assert "not managed" in operator("cancel", "-Q", "other", "--yes", code=2)
    assert operator("bump", ids[2], "nobody", "--why", "they\ncalled", code=1).splitlines() == [
        f"{ids[2]} shop.report: done",
        "nobody: not found",
        "2 tasks: 1 done, 1 not found",
    ]
    log = operator.json("log", "--limit", "2")["entries"]
    assert [(each["op"], each["id"], each["answer"]) for each in log] == [
        ("bump", "nobody", "not found"),
        ("bump", ids[2], "done"),
    ]
    assert r"they\ncalled" in operator("log", "--id", ids[2])


def busy(project: Project, start_worker: StartWorker, client: redis.Redis, name: str = "worker") -> WorkerNode:
    """A worker of one slot, which is taken until the test opens the gate."""
    gated = project.load().gated.apply_async(priority=0)
    node = start_worker(project, name, concurrency=1)
    wait_until(lambda: gated.state == "STARTED", message="the slot is taken")
    return node


def test_a_bumped_task_is_the_next_to_run_and_what_is_set_by_hand_stays(
    project: Project, valkey: Database, operator: Operator, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    module = project.load()
    busy(project, start_worker, valkey.client)
    checkouts = [module.checkout.delay("bob", n) for n in range(2)]
    reports = [module.report.delay("ada", page) for page in range(4)]
    leader = start_celery(project, "dynprio", "run", "-l", "DEBUG", ready_line=READY)
    leader.wait_for_log("celery: read 6 of 6")

    operator("reprioritize", reports[3].id, "--weight", "10", "--deadline", "600", "--key", "eve")
    operator("reprioritize", reports[2].id, "--level", "1")
    assert operator("bump", reports[1].id) == f"{reports[1].id} shop.report: done\n"
    ticks = leader.logs().count("celery: read")
    wait_until(lambda: leader.logs().count("celery: read") > ticks + 10, message="ten ticks")

    # The heavy report joins the checkouts' level behind them.
    assert operator.listed() == [each.id for each in (reports[1], *checkouts, reports[3], reports[2], reports[0])]
    found = operator.json("explain", reports[3].id)
    assert (found["weight"], found["key"], 0 < found["deadline_in"] < 600) == (10, "eve", True)
    assert operator.json("explain", reports[2].id)["place"] == "P1"

    (gated,) = valkey.client.hvals("unacked")
    gated_id = json.loads(gated)[0]["headers"]["id"]
    assert operator("hold", gated_id, code=1).startswith(f"{gated_id}: already running")
    valkey.client.rpush("gate", "open")
    wait_until(lambda: len(ran(valkey.client)) == 6)
    assert ran(valkey.client) == ["1", "order 0", "order 1", "3", "2", "0"]
    answers = operator.json("cancel", gated_id, "nobody", code=1)
    assert [each["answer"] for each in answers["results"]] == ["already finished", "revoked"]


def test_a_held_task_stays_held_through_restarts_until_it_is_released(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    server = start_server(aof=True)
    project = make_project(server.url(), BODY)
    operator, module = Operator(project), project.load()
    held, revoked = module.report.delay("ada", 1), module.report.delay("ada", 2)
    assert operator("hold", held.id, revoked.id).splitlines()[-1] == "2 tasks: 2 done"
    worker = start_worker(project, concurrency=1)
    server.restart()
    worker.restart()
    with server.client() as client:
        third = module.report.delay("ada", 3)
        wait_until(third.ready)  # Celery's subscription to results does not always get over a restart of the server
        assert third.result == 3
        assert ran(client) == ["3"]
        assert set(operator.listed("--held")) == {held.id, revoked.id}

        module.app.control.revoke(revoked.id, reply=True)
        operator("release", "--held", "--yes")

        wait_until(held.ready)
        assert held.result == 1
        wait_until(revoked.ready)
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=30)
        assert ran(client) == ["3", "1"]


class Events:
    """What Celery's own receiver hears, from when this is entered on."""

    def __init__(self, project: Project, client: redis.Redis) -> None:
        self._app, self._client = project.app, client
        self.heard: list[dict[str, Any]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.heard.append})
            with receiver.consumer_context() as (self._connection, _, _):
                # kombu subscribes when it is asked for the first event.
                wait_until(lambda: self.told(self._client.pubsub_numpat), message="subscribed")
                yield

    def told(self, condition: Callable[[], object]) -> bool:
        """Hear what was said; whether the condition is met by then."""
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=0.1)
        return bool(condition())

    def revoked(self) -> set[str]:
        """The ids of tasks that are told to be revoked."""
        return {each["uuid"] for each in self.heard if each["type"] == "task-revoked"}


def test_a_cancelled_task_is_revoked_for_all_who_wait_with_no_worker_up(
    project: Project, operator: Operator, valkey: Database
) -> None:
    module = project.load()
    single = module.report.delay("ada", 1)
    body = chord([module.report.s("ada", 2), module.report.s("ada", 3)])(module.total.s())
    part = body.parent.results[0]
    events = Events(project, valkey.client)
    with events.listening():
        told = operator("cancel", single.id, part.id, "--why", "a typing error").splitlines()
        wait_until(lambda: events.told(lambda: events.revoked() == {single.id, part.id}), message="the events")
    assert told == [f"{single.id} shop.report: done", f"{part.id} shop.report: done", "2 tasks: 2 done"]
    assert [single.state, part.state] == ["REVOKED"] * 2
    with pytest.raises(TaskRevokedError):
        body.get(timeout=10)
    assert operator.listed() == [body.parent.results[1].id]


def test_what_a_worker_keeps_until_its_time_is_withdrawn(
    project: Project, operator: Operator, valkey: Database, start_worker: StartWorker
) -> None:
    module = project.load()
    worker = start_worker(project, concurrency=1)
    reminder, kept = (module.report.apply_async(("ada", page), countdown=30) for page in (1, 2))
    wait_until(lambda: valkey.client.hlen("unacked") == 2)
    assert operator("cancel", reminder.id).startswith(f"{reminder.id}: done (it was scheduled at ")
    wait_until(kept.ready, 90)
    wait_until(lambda: f"Discarding revoked task: shop.report[{reminder.id}]" in worker.logs())
    assert (ran(valkey.client), reminder.state) == (["2"], "REVOKED")


def test_a_broker_that_is_away_is_one_line(make_project: MakeProject) -> None:
    operator = Operator(make_project("redis://127.0.0.1:1/0", BODY))
    (line,) = operator("bump", "some-id", code=1).splitlines()
    assert line.startswith("Error: broker redis://")
    assert "75%  Weight()" in operator("policy"), "that needs no broker"


def test_a_shell_completes_commands_and_options(project: Project) -> None:
    celery = Path(sys.executable).with_name("celery")

    def completed(*words: str) -> list[str]:
        line = ["celery", "-A", project.name, *words]
        env = {"_CELERY_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
        done = subprocess.run([celery], env={**os.environ, **env}, capture_output=True, text=True, check=True)
        return [row.partition(",")[2] for row in done.stdout.splitlines()]

    assert completed("dynp") == ["dynprio"]
    assert completed("dynprio", "re") == ["reprioritize", "release", "resume", "record", "replay"]
    assert completed("dynprio", "bump", "--t") == ["--task", "--trace"]
