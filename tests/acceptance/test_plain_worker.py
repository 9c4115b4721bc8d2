"""A worker that knows nothing of the add-on runs what the add-on published, moved, parked and brought back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final, cast

import pytest
import redis
from celery import chain, chord, group
from celery.result import AsyncResult

from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database

TASKS: Final = """
    @app.task(name="shop.add")
    def add(x, y=0):
        return x + y

    @app.task(name="shop.total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="shop.echo", bind=True)
    def echo(self, *args, **kwargs):
        return [list(args), kwargs, self.request.get("tenant"), self.request.correlation_id]

    @app.task(name="shop.flaky", bind=True, max_retries=3)
    def flaky(self, fail):
        if self.request.retries < fail:
            raise self.retry(countdown=0)
        return self.request.retries

    @app.task(name="shop.bad")
    def bad():
        raise ValueError("of the task's own")
"""

#: The test publishes heavy tasks first, the commands move light ones there.
ADDON: Final = """
    import os
    from celery_dynprio import DynPrio, Weight, factor

    @factor
    def lightness(task, context):
        return 1 - task.weight / 10

    app.conf.update(
        dynprio_policy=1 * (lightness if "LIGHT_FIRST" in os.environ else Weight()),
        dynprio_embedded=False,
        dynprio_window=int(os.environ.get("WINDOW", "1000")),
    )
    dynprio = DynPrio(app)
"""

CONF: Final = {"accept_content": ["json", "pickle", "msgpack"], "result_accept_content": ["json"]}

#: Celery refuses pickle to root unless it is told.
ENV: Final = {"C_FORCE_ROOT": "1"}

#: Tasks of each weight that are there only to be moved and parked.
FILLERS: Final = 10

LEVELS: Final = ("celery", *(f"celery\x06\x16{level}" for level in range(1, 10)))

#: Publishes some tasks and tells what their results must be.
Case = Callable[[Any], list[tuple[AsyncResult, object]]]


def arguments(module: Any) -> list[tuple[AsyncResult, object]]:
    """Args, kwargs, headers of the user's own and the task's id."""
    sent = module.echo.apply_async((1, "ü"), {"key": [None]}, headers={"tenant": "acme"}, dynprio={"weight": 9})
    return [(sent, [[1, "ü"], {"key": [None]}, "acme", sent.id])]


def canvas(module: Any) -> list[tuple[AsyncResult, object]]:
    """A chain, a group and a chord, the first of each published by the add-on, what follows by the worker."""
    add = module.add
    return [
        (chain(add.s(1, 2), add.s(10), add.s(100)).set(dynprio={"weight": 8}).apply_async(), 113),
        (group(add.s(n, n) for n in range(4)).apply_async(), [0, 2, 4, 6]),
        (chord([add.s(n, 1).set(dynprio={"weight": 10}) for n in range(4)])(module.total.s()), 10),
    ]


def times(module: Any) -> list[tuple[AsyncResult, object]]:
    """Tasks that wait in the worker until they are due."""
    due = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    heavy = {"weight": 10}
    return [
        (module.add.apply_async((1, 1), countdown=0.5, dynprio=heavy), 2),
        (module.add.apply_async((2, 2), eta=due, dynprio=heavy), 4),
        (module.add.apply_async((3, 3), expires=3600, dynprio=heavy), 6),
    ]


def retries(module: Any) -> list[tuple[AsyncResult, object]]:
    """Tasks that the plain worker publishes again."""
    return [(module.flaky.apply_async((fail,), dynprio={"weight": 10}), fail) for fail in range(3)]


def encodings(module: Any) -> list[tuple[AsyncResult, object]]:
    """Bodies that only the worker can read."""
    heavy = {"weight": 10}
    options: list[dict[str, Any]] = [
        {"serializer": "pickle"},
        {"serializer": "msgpack"},
        {"serializer": "json", "compression": "gzip"},
        {"serializer": "pickle", "compression": "bzip2"},
    ]
    return [(module.add.apply_async((20, 3), dynprio=heavy, **option), 23) for option in options]


CASES: Final[dict[str, Case]] = {case.__name__: case for case in (arguments, canvas, times, retries, encodings)}


@pytest.fixture
def shop(valkey: Database, make_project: MakeProject) -> Project:
    """The project with the add-on: what publishes and what moves."""
    env = {"LIGHT_FIRST": "1", "WINDOW": "4"}
    return make_project(valkey.url, ADDON + TASKS, conf=CONF, env=env)


@pytest.fixture
def plain(valkey: Database, make_project: MakeProject) -> Project:
    """The same tasks in a project that has never heard of the add-on."""
    conf = {**CONF, "broker_transport_options": {"priority_steps": list(range(10))}}
    return make_project(valkey.url, TASKS, conf=conf, env=ENV)


def fill(module: Any) -> list[tuple[AsyncResult, object]]:
    """Tasks of both extreme weights, which a reprioritizer exchanges."""
    weights = [10, 0] * FILLERS
    return [(module.add.apply_async((n, n), dynprio={"weight": w}), 2 * n) for n, w in enumerate(weights)]


def move_once(shop: Project, start_celery: StartCelery) -> None:
    """Put light tasks first, and park none."""
    process = Project(shop.name, shop.directory, {"LIGHT_FIRST": "1"})
    node = start_celery(process, "dynprio", "run", "--once")
    assert node.wait(60) == 0
    assert ", parked 0," in node.logs()


def front(client: redis.Redis) -> set[bytes]:
    """All messages of the front, as they are there."""
    return {raw for key in LEVELS for raw in cast("list[bytes]", client.lrange(key, 0, -1))}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_was_moved(  # noqa: PLR0917 - fixtures
    case: Case, valkey: Database, shop: Project, plain: Project, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    module = shop.load()
    sent = [*fill(module), *case(module)]
    before = front(valkey.client)
    move_once(shop, start_celery)
    assert len(before - front(valkey.client)) >= 2 * FILLERS  # each of them was rewritten, so it was moved
    start_worker(plain)
    assert [result.get(timeout=30) for result, _ in sent] == [expected for _, expected in sent]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_was_parked_and_brought_back(  # noqa: PLR0917 - fixtures
    case: Case, valkey: Database, shop: Project, plain: Project, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    module = shop.load()
    sent = [*case(module), *fill(module)]
    pending = len(front(valkey.client))
    node = start_celery(shop, "dynprio", "run", "--interval", "0.05", name="run")
    wait_until(lambda: valkey.client.hlen("dynprio:celery:overflow") >= pending - 5)  # all but the window
    node.kill("SIGTERM")
    drain = start_celery(shop, "dynprio", "drain", name="drain")
    assert drain.wait(60) == 0
    assert not valkey.client.exists("dynprio:celery:overflow")
    start_worker(plain)
    assert [result.get(timeout=30) for result, _ in sent] == [expected for _, expected in sent]


def test_a_front_that_is_refilled_while_a_plain_worker_empties_it(
    valkey: Database, shop: Project, plain: Project, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    sent = [pair for _ in range(5) for pair in fill(shop.load())]
    node = start_celery(shop, "dynprio", "run", "--interval", "0.05", ready_line="dynprio ready")
    node.wait_for_log("overflow ")
    start_worker(plain)
    assert [result.get(timeout=60) for result, _ in sent] == [expected for _, expected in sent]
    assert not valkey.client.exists("dynprio:celery:overflow", *LEVELS)


def test_failures_and_what_has_expired_end_as_in_plain_celery(
    valkey: Database, shop: Project, plain: Project, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    module = shop.load()
    failed = module.bad.apply_async(dynprio={"weight": 10})
    expired = module.add.apply_async((1,), expires=datetime.now(timezone.utc), dynprio={"weight": 10})
    fill(module)
    before = front(valkey.client)
    move_once(shop, start_celery)
    assert not any(failed.id.encode() in raw or expired.id.encode() in raw for raw in before & front(valkey.client))
    start_worker(plain)
    with pytest.raises(ValueError, match="of the task's own"):
        failed.get(timeout=30)
    assert expired.get(timeout=30, propagate=False) is not None
    assert expired.state == "REVOKED"
