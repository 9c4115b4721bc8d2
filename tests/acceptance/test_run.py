"""``celery -A proj dynprio run`` beside others of its kind: leaders that stop, sleep, or have a broken policy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from signal import SIGCONT
from typing import Final
from unittest.mock import Mock

import psutil
import pytest

from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.operators import cancelling
from celery_dynprio.operators.operations import Operations
from tests.conftest import MakeProject, StartCelery
from tests.messages import numbers, pending
from tests.nodes import ProcessNode, Project
from tests.processes import wait_until
from tests.servers import Database

#: Each process has a policy by its variable POLICY. The test itself publishes heavy tasks into the first level.
BODY: Final = """
    import os, signal, time
    from celery_dynprio import DynPrio, Weight, dynprio_task, factor

    @factor
    def lightness(task, context):
        return 1 - task.weight / 10

    @factor
    def sleeper(task, context):
        if not os.path.exists("slept"):
            open("slept", "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)
        return 1 - task.weight / 10

    @factor
    def broken(task, context):
        if os.path.exists("break"):
            raise ZeroDivisionError("of the user's own")
        return 1 - task.weight / 10

    policies = {"heavy": Weight(), "light": lightness, "sleeper": sleeper, "broken": broken}
    app.conf.update(
        dynprio_policy=1 * policies[os.environ.get("POLICY", "heavy")],
        dynprio_embedded=False,
        dynprio_interval=0.1,
        dynprio_budget=float(os.environ.get("BUDGET", "0.2")),
        dynprio_lease_ttl=float(os.environ.get("LEASE_TTL", "1")),
    )
    dynprio = DynPrio(app)

    @dynprio_task(app=app)
    def work(n):
        return n
"""

READY: Final = "dynprio ready"
LAST: Final = "celery\x06\x169"
LEASE: Final = "dynprio:celery:lease"

#: A process of the project whose settings are these variables.
Run = Callable[..., ProcessNode]


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY, backend="cache+memory://")


@pytest.fixture
def run(project: Project, start_celery: StartCelery) -> Run:
    def start(name: str, *options: str, **env: str) -> ProcessNode:
        process = Project(project.name, project.directory, env)
        return start_celery(process, "dynprio", "run", *options, name=name, ready_line=READY)

    return start


def publish(project: Project, heavy: int, light: int = 0) -> None:
    """Publish tasks of weight 10 and then of weight 0, numbered from 0 on."""
    work = project.load().work
    for n in range(heavy + light):
        work.apply_async((n,), dynprio={"weight": 10 if n < heavy else 0})


def test_sigterm_between_moves_gives_the_lease_back_at_once(valkey: Database, project: Project, run: Run) -> None:
    count = 3000
    publish(project, count)
    first = run("first", "--interval", "0.05", POLICY="light", LEASE_TTL="600", BUDGET="0.0005")  # a few a tick
    wait_until(lambda: valkey.client.llen(LAST))
    second = run("second", "-l", "DEBUG", POLICY="light", LEASE_TTL="600", BUDGET="0.0005")
    second.wait_for_log("celery: standby")

    first.kill("SIGTERM")

    assert 0 < valkey.client.llen(LAST) < count
    assert first.exit_code == 0
    assert first.logs().rstrip().endswith("dynprio stopped")
    second.wait_for_log("celery: read")  # its lease would have lasted for ten minutes
    second.kill("SIGTERM")
    assert second.exit_code == 0
    assert not valkey.client.exists(LEASE)
    assert numbers(pending(valkey.client)) == dict.fromkeys(range(count), 1)


def test_one_of_two_leads_and_the_other_takes_over_when_it_is_killed(
    valkey: Database, project: Project, run: Run
) -> None:
    first = run("first", "-l", "DEBUG", LEASE_TTL="6")
    first.wait_for_log("celery: read")
    second = run("second", "-l", "DEBUG", LEASE_TTL="6")
    wait_until(lambda: second.logs().count("celery: standby") > 70)  # longer than a lease that nobody renews
    assert "celery: read" not in second.logs()
    assert "celery: standby" not in first.logs()

    first.kill("SIGKILL")

    second.wait_for_log("celery: read")
    publish(project, 3)
    wait_until(lambda: f":{second.pid}:".encode() in (valkey.client.get(LEASE) or b""), message="it has the lease")


def test_a_leader_that_slept_moves_nothing(valkey: Database, project: Project, run: Run) -> None:
    publish(project, 10, 10)
    lists = [valkey.client.lrange(key, 0, -1) for key in ("celery", LAST)]
    # It stops itself between its reading and its moving.
    stale = run("stale", "-l", "DEBUG", POLICY="sleeper", LEASE_TTL="3")
    wait_until(lambda: psutil.Process(stale.pid).status() == psutil.STATUS_STOPPED)
    leader = run("leader", "-l", "DEBUG", POLICY="heavy", LEASE_TTL="3")
    leader.wait_for_log("celery: read 20 of 20, moved 0")

    stale.signal(SIGCONT)

    stale.wait_for_log("celery: standby")
    assert "moved" not in stale.logs()
    assert [valkey.client.lrange(key, 0, -1) for key in ("celery", LAST)] == lists


def test_a_policy_that_raises_does_not_stop_the_loop(valkey: Database, project: Project, run: Run) -> None:
    publish(project, 5)
    node = run("broken", "-l", "DEBUG", POLICY="broken")
    wait_until(lambda: valkey.client.llen(LAST) == 5)

    switch = project.directory / "break"
    switch.touch()

    node.wait_for_log("the policy failed")
    ticks = node.logs().count("celery: read 5 of 5, moved 0")
    wait_until(lambda: node.logs().count("celery: read 5 of 5, moved 0") > ticks + 5)
    assert node.logs().count("the policy failed") == 1
    assert "of the user's own" in node.logs()
    assert valkey.client.llen(LAST) == 5  # the last scores stand

    switch.unlink()
    publish(project, 5)

    wait_until(lambda: valkey.client.llen(LAST) == 10)
    assert node.exit_code is None


def test_pause_stops_a_running_one_and_resume_lets_it_go_on(valkey: Database, project: Project, run: Run) -> None:
    node = run("light", "-l", "DEBUG", POLICY="light")
    node.wait_for_log("celery: read")
    dynprio = project.load().dynprio
    dynprio.pause()
    node.wait_for_log("celery: paused")
    publish(project, 5)
    paused = node.logs().count("celery: paused")
    wait_until(lambda: node.logs().count("celery: paused") > paused + 3)
    assert valkey.client.llen("celery") == 5

    dynprio.resume()

    wait_until(lambda: valkey.client.llen(LAST) == 5)


def test_what_a_killed_operator_had_begun_to_cancel_is_told(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(valkey.url, BODY)
    module = project.load()
    result = module.work.delay(1)
    client = RedisClient.from_app(module.app)
    settings = module.dynprio.settings
    operator = Operations(
        module.app, RedisBroker(client), settings, clock=lambda: time.time() - 2 * cancelling.ABANDONED
    )
    with monkeypatch.context() as patch:
        patch.setattr(cancelling, "revoke", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            operator.cancel([result.id])
    client.close()
    assert (valkey.client.hlen("dynprio:celery:cancelled"), result.state) == (1, "PENDING")
    leader = start_celery(project, "dynprio", "run", ready_line=READY)
    leader.wait_for_log("finished 1 cancellations")
    assert (valkey.client.hlen("dynprio:celery:cancelled"), result.state) == (0, "REVOKED")


def test_a_tick_writes_one_line_which_is_news_if_it_changed_something(
    valkey: Database, project: Project, run: Run
) -> None:
    publish(project, 5)
    node = run("light", "-l", "DEBUG", POLICY="light")
    wait_until(lambda: node.logs().count("dynprio celery: ") > 4)
    node.kill("SIGTERM")
    assert valkey.client.llen(LAST) == 5
    lines = [line for line in node.logs().splitlines() if "dynprio celery: read" in line]
    form = re.compile(r"\[.*: (\w+)/.*\] dynprio celery: read 5 of 5, moved (\d+), parked 0, in \d+ ms")
    ticks = [form.fullmatch(line) for line in lines]
    news, nothing = ("INFO", "5"), ("DEBUG", "0")
    assert [tick.groups() if tick else None for tick in ticks] == [news] + [nothing] * (len(ticks) - 1)
