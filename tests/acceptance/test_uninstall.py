"""Without the add-on nothing that is pending is left behind: the reprioritizer stopped, or the add-on uninstalled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, cast

import pytest
import redis

from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database

#: A task that tells that it ran, in the order in which it did.
TASK: Final = """
    @app.task(name="shop.work", bind=True)
    def work(self):
        app.backend.client.rpush("ran", self.request.id)
"""

ADDON: Final = """
    import os
    from celery_dynprio import DynPrio, Weight

    app.conf.update(dynprio_policy=1 * Weight(), dynprio_embedded=False, dynprio_window=50)
    dynprio = DynPrio(app)
    if "UNINSTALL" in os.environ:
        dynprio.uninstall()
"""

TEN_STEPS: Final = {"broker_transport_options": {"priority_steps": list(range(10))}}

#: One weight for each of the ten levels.
WEIGHTS: Final = [level + 0.5 for level in range(10)]

#: Tasks that an operator holds.
HELD: Final = 5


def key(level: int) -> str:
    return f"celery\x06\x16{level}" if level else "celery"


def publish(project: Project, rounds: int) -> list[str]:
    """Publish this many tasks for each level; their ids."""
    work = project.load().work
    return [work.apply_async(dynprio={"weight": weight}).id for _ in range(rounds) for weight in WEIGHTS]


def waiting(client: redis.Redis, levels: Sequence[int]) -> list[str]:
    """The ids in these lists, in the order in which workers take them."""
    lists = [cast("list[bytes]", client.lrange(key(level), 0, -1)) for level in levels]
    return [json.loads(raw)["headers"]["id"] for messages in lists for raw in reversed(messages)]


def hold(client: redis.Redis, task_id: str) -> None:
    """Park a pending task as an operator's hold does."""
    for level in range(10):
        for raw in cast("list[bytes]", client.lrange(key(level), 0, -1)):
            if json.loads(raw)["headers"]["id"] == task_id:
                client.lrem(key(level), 1, cast("str", raw))
                client.hset("dynprio:celery:held", task_id, cast("str", raw))
                return
    raise AssertionError(f"{task_id} is in no level")


def ran(client: redis.Redis) -> list[str]:
    found: Any = client.lrange("ran", 0, -1)
    return [task_id.decode() for task_id in found]


def run_all(client: redis.Redis, start_worker: StartWorker, project: Project, ids: list[str]) -> list[str]:
    """Run a worker until all of these ran and nothing is left; the order in which they ran."""
    # Celery 5.5 looks for the next message once a second only, where it may have a single one.
    start_worker(project, concurrency=1, args=["--prefetch-multiplier", "100"])
    wait_until(lambda: set(ids) <= set(ran(client)), 60, "each of the tasks ran")
    wait_until(lambda: not client.exists(*map(key, range(10)), "unacked"), 30, "nothing is left")
    return ran(client)


@pytest.fixture
def shop(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, ADDON + TASK)


def test_the_front_drains_in_its_last_order_when_the_reprioritizer_is_dead(
    valkey: Database, shop: Project, make_project: MakeProject, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    ids = publish(shop, 4)
    heavy = waiting(valkey.client, [0])
    for level in (0, 3):  # all in the reverse order, for the reprioritizer to mend
        valkey.client.rename(key(level), "swap")
        valkey.client.rename(key(9 - level), key(level))
        valkey.client.rename("swap", key(9 - level))
    node = start_celery(shop, "dynprio", "run", "--interval", "0.05")
    wait_until(lambda: waiting(valkey.client, [0]) == heavy, message="the heaviest are first")
    node.kill("SIGKILL")
    order = waiting(valkey.client, range(10))
    assert sorted(order) == sorted(ids)
    plain = make_project(valkey.url, TASK)
    assert run_all(valkey.client, start_worker, plain, ids) == order


@pytest.mark.parametrize("how", ["removed", "uninstalled"])
def test_a_plain_worker_runs_all_that_was_pending_after_drain(  # noqa: PLR0917 - fixtures
    how: str,
    valkey: Database,
    shop: Project,
    make_project: MakeProject,
    start_celery: StartCelery,
    start_worker: StartWorker,
) -> None:
    ids = publish(shop, 8)
    node = start_celery(shop, "dynprio", "run", "--interval", "0.05", name="run")
    wait_until(lambda: valkey.client.hlen("dynprio:celery:overflow") >= 20, message="what the window has no room for")
    node.kill("SIGTERM")
    ids += publish(shop, 2)  # into all plain levels, also those that the window emptied
    for level in (3, 6):  # as a reprioritizer that was killed may leave it
        valkey.client.rename(key(level), key(level + 2))
    for task_id in ids[-HELD:]:
        hold(valkey.client, task_id)
    drain = start_celery(shop, "dynprio", "drain", "--held", name="drain")
    assert drain.wait(60) == 0, drain.logs()
    order = waiting(valkey.client, (0, 3, 6, 9))
    assert sorted(order) == sorted(ids)
    env = {"UNINSTALL": "1"}
    plain = Project(shop.name, shop.directory, env) if how == "uninstalled" else make_project(valkey.url, TASK)
    assert run_all(valkey.client, start_worker, plain, ids) == order
    assert not valkey.client.exists("dynprio:celery:overflow", "dynprio:celery:held")


def test_drain_leaves_the_levels_that_the_users_own_steps_name(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    shop = make_project(valkey.url, ADDON + TASK, conf=TEN_STEPS)
    ids = publish(shop, 2)
    before = waiting(valkey.client, range(10))
    drain = start_celery(shop, "dynprio", "drain")
    assert drain.wait(60) == 0, drain.logs()
    assert all(valkey.client.llen(key(level)) == 2 for level in range(10))
    plain = make_project(valkey.url, TASK, conf=TEN_STEPS)
    assert run_all(valkey.client, start_worker, plain, ids) == before
