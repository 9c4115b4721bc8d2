"""Kill anything at any instruction: every task runs exactly once (or as often as plain Celery would run it)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

import pytest
import redis

from celery_dynprio.brokers.redis.backlog import CHECKED
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.messages import numbers, pending, unacknowledged
from tests.nodes import ProcessNode, Project, WorkerNode
from tests.processes import Process, wait_until
from tests.servers import Database, RedisServer

KILLS: Final = 50

#: kombu's own mutex for giving back what dead workers had is kept for this many seconds after one that died with it.
MUTEX: Final = {"unacked_mutex_expire": 3}

#: Where the tasks note that they ran: on another server, so that the broker's trouble is not theirs.
BODY: Final = """
import os, random, time
import redis
from celery_dynprio import Age, Deadline, DynPrio, FairShare, Weight, dynprio_task

app.conf.update(
    dynprio_queues=["celery"],
    dynprio_policy=3 * Weight() + 2 * Deadline(horizon=20) + 2 * FairShare() + 1 * Age(saturation=20),
    dynprio_interval=0.1,
    dynprio_lease_ttl=1.0,
    dynprio_window=1500,
)
dynprio = DynPrio(app)
notes = redis.Redis.from_url(os.environ["NOTES"])

def work(n):
    notes.rpush("ran", n)
    time.sleep(float(os.environ["WORK"]))

@dynprio_task(app=app, key="tenant")
def report(n, tenant): work(n)

@dynprio_task(app=app, weight=9, deadline=5, key="tenant")
def checkout(n, tenant): work(n)

@app.task
def plain(n, tenant): work(n)
"""


class Load:
    """A project whose tasks note that they ran, and what they noted."""

    def __init__(self, project: Project, notes: Database) -> None:
        self.project = project
        self._notes = notes.client
        self.sent = 0

    def publish(self, count: int) -> None:
        """Publish a mix of all classes."""
        module = self.project.load()
        classes = [module.report] * 6 + [module.checkout] * 2 + [module.plain] * 2
        for n in range(self.sent, self.sent + count):
            random.choice(classes).delay(n, f"tenant {n % 7}")
        self.sent += count

    def ran(self) -> Counter[int]:
        """How often each task ran so far."""
        return Counter(int(n) for n in self._notes.lrange("ran", 0, -1))

    def finished(self) -> bool:
        """Whether each task ran at least once."""
        return self._notes.llen("ran") >= self.sent and len(self.ran()) == self.sent

    def keep_busy(self) -> None:
        """Publish more if little is left to do."""
        if self.sent - int(self._notes.llen("ran")) < 500:
            self.publish(500)


@pytest.fixture(autouse=True)
def reads_are_right(started: list[Process]) -> Iterator[None]:
    """Each read of a reprioritizer is compared with all that is there."""
    yield
    for process in started:
        assert "AssertionError" not in process.logs()


@pytest.fixture
def load(make_project: MakeProject, valkey: Database) -> Callable[..., Load]:
    def make(broker: str, *, work: float, **conf: object) -> Load:
        env = {"NOTES": valkey.url, "WORK": str(work), CHECKED: "1"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            made = Load(make_project(broker, BODY, conf={"task_ignore_result": True, **conf}, env=env), valkey)
            made.project.load()
        return made

    return make


def kill_in_turn(
    running: Load,
    starters: list[Callable[[], ProcessNode]],
    kills: int,
    *,
    patience: float,
    least: float = 0.0,
    moment_of: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Keep one process of each kind alive and SIGKILL a random one at a random moment of its life, over and over."""
    alive = [start() for start in starters]
    for _ in range(kills):
        running.keep_busy()
        victim = random.randrange(len(alive))
        moment = random.uniform(least, patience)
        lived = _clock()
        wait_until(lambda lived=lived, moment=moment: lived() > moment)  # type: ignore[misc]
        with moment_of():
            alive[victim].kill("SIGKILL")
        alive[victim] = starters[victim]()


def _clock() -> Callable[[], float]:
    start = time.monotonic()
    return lambda: time.monotonic() - start


def reprioritizers(start_celery: StartCelery, project: Project) -> list[Callable[[], ProcessNode]]:
    """Starters of two that compete."""

    def starter(slot: int) -> Callable[[], ProcessNode]:
        return lambda: start_celery(project, "dynprio", "run", name=f"reprioritizer-{slot}")

    return [starter(0), starter(1)]


@pytest.mark.timeout(240)
def test_every_task_runs_once_while_reprioritizers_are_killed(
    load: Callable[..., Load], redis_server: Database, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    running = load(redis_server.url, work=0.03, dynprio_embedded=False)
    running.publish(5000)
    for name in ("one", "two"):
        start_worker(running.project, name, pool="prefork", concurrency=2)
    kill_in_turn(running, reprioritizers(start_celery, running.project), KILLS, patience=1.2)
    wait_until(running.finished, 120, "every task ran")
    assert set(running.ran().values()) == {1}


@pytest.mark.timeout(240)
def test_workers_with_candidates_are_killed_under_acks_late(
    load: Callable[..., Load], valkey: Database, open_database: Callable[..., Database], start_worker: StartWorker
) -> None:
    broker = open_database("valkey")
    options = {"visibility_timeout": 8, "unacked_restore_interval": 1, "unacked_restore_throttle": 1, **MUTEX}
    running = load(
        broker.url,
        work=0.05,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        broker_transport_options=options,
    )
    running.publish(1500)
    kills = 6

    def starter(slot: int) -> Callable[[], ProcessNode]:
        names = iter(range(10_000))
        return lambda: start_worker(running.project, f"worker-{slot}-{next(names)}", pool="prefork", concurrency=2)

    kill_in_turn(
        running,
        [starter(0), starter(1)],
        kills,
        least=1.1,
        patience=2.5,
        moment_of=lambda: _nothing_on_its_way(broker.client, unacknowledged=4),
    )
    wait_until(running.finished, 150, "every task ran")
    assert int(broker.client.get("dynprio:celery:fence") or 0) > 1  # candidates led, one after another
    repeats = sum(running.ran().values()) - running.sent
    assert repeats <= 2 * kills  # each worker had no more than two unacknowledged, as with plain Celery


@contextmanager
def _nothing_on_its_way(client: redis.Redis, unacknowledged: int) -> Iterator[None]:
    """A moment at which every worker holds all that it reserves; the last kill must be over a second ago.

    At others, a message may have been popped and not yet be noted as unacknowledged: kombu loses it with the worker.
    Nor does any hold kombu's mutex, which would keep the others from giving back what this one had.
    """

    def quiet() -> bool:
        client.client_pause(10_000, all=False)
        # Those of workers that were killed before are older, until kombu restores them.
        reserved = client.zcount("unacked_index", time.time() - 1, "+inf")
        if reserved == unacknowledged and not client.exists("unacked_mutex"):
            return True
        client.client_unpause()
        return False

    wait_until(quiet, 30, "the workers reserve all they can")
    try:
        yield
    finally:
        client.client_unpause()


@pytest.mark.timeout(240)
def test_the_server_restarts_in_the_middle(
    load: Callable[..., Load], start_server: StartServer, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    server = start_server("valkey", aof=True)
    options = {"visibility_timeout": 8, "unacked_restore_interval": 1, "unacked_restore_throttle": 1, **MUTEX}
    running = load(server.url(), work=0.02, broker_transport_options=options, dynprio_embedded=False)
    running.publish(2000)
    workers: list[WorkerNode] = [start_worker(running.project, name, pool="prefork") for name in ("one", "two")]
    for start in reprioritizers(start_celery, running.project):
        start()

    def ran(count: int) -> bool:
        # kombu 5.7 may stumble over its own closed connection, which ends the worker: a supervisor starts it again.
        for ended in (worker for worker in workers if worker.exit_code is not None):
            ended.start()
        return len(running.ran()) >= count

    for part in (500, 1000):
        wait_until(lambda part=part: ran(part), 60, f"{part} tasks ran")  # type: ignore[misc]
        _restart_between_commands(server, running)
    wait_until(lambda: ran(running.sent), 120, "every task ran")
    repeats = sum(running.ran().values()) - running.sent
    assert repeats <= 2 * 2 * len(workers)  # unacknowledged in a worker when its connection broke, as with plain Celery


def _restart_between_commands(server: RedisServer, running: Load) -> None:
    """Restart it while no message is on its way to a worker.

    What BRPOP popped, and kombu has not noted as unacknowledged yet, is lost by plain Celery too.
    """
    with server.client() as client:

        def accounted() -> bool:
            known = numbers([*pending(client), *unacknowledged(client)])
            everything = len(known.keys() | running.ran().keys()) == running.sent
            return everything and not client.exists("unacked_mutex")

        def quiet() -> bool:
            client.client_pause(10_000, all=False)
            with suppress(AssertionError):
                wait_until(accounted, 0.5)  # tasks that are under way note that they ran
                return True
            client.client_unpause()
            return False

        wait_until(quiet, 30, "no message is on its way")
        with suppress(redis.ConnectionError):
            client.shutdown(nosave=True)
    server.wait()
    server.start()


@pytest.mark.timeout(120)
def test_nothing_is_lost_when_the_server_is_killed_while_tasks_move(
    load: Callable[..., Load], start_server: StartServer, start_celery: StartCelery
) -> None:
    server = start_server("redis", aof=True)
    running = load(server.url(), work=0.0, dynprio_embedded=False)
    running.publish(3000)
    for start in reprioritizers(start_celery, running.project):
        start()
    for _ in range(8):
        with server.client() as client:
            scripts = random.randrange(1, 20)
            wait_until(lambda client=client, scripts=scripts: _scripts(client) > scripts, 60, "scripts run")  # type: ignore[misc]
        server.kill("SIGKILL")
        server.start()
        assert _ids(server) == Counter(dict.fromkeys(range(running.sent), 1))


def _scripts(client: redis.Redis) -> int:
    """How many scripts this server ran since it was started: most of them move tasks."""
    return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def _ids(server: RedisServer) -> Counter[int]:
    """Every pending task of the queue, wherever it is, by the number it was published with."""
    with server.client() as client:
        return numbers(pending(client))
