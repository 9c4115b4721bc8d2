"""Chords on result backends that cannot count the parts: a task asks again and again whether they have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import chord

from celery_dynprio import DynPrio
from tests.apps import make_app
from tests.conftest import MakeProject, StartWorker
from tests.messages import pending, unacknowledged
from tests.processes import wait_until
from tests.servers import Database

UNLOCK = "celery.chord_unlock"

BACKENDS = {
    "database": "db+sqlite:///{directory}/results.sqlite",
    "file system": "file://{directory}",
    "cache": "cache+memory://",
}


def run(*_: Any) -> None: ...


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_chord_is_published_as_by_plain_celery(valkey: Database, kind: str, tmp_path: Path) -> None:
    published: list[list[tuple[str, Any]]] = []
    for manage in (False, True):
        app = make_app(valkey.url)
        app.conf.update(result_backend=BACKENDS[kind].format(directory=tmp_path))
        if manage:
            DynPrio(app)
        part, total = (app.task(run, name=name, shared=False) for name in ("part", "total"))
        signature = chord([part.si(n) for n in range(3)], total.s())
        for _ in range(2):  # the same signature
            signature.apply_async()
        messages = pending(valkey.client)
        published.append(sorted((each["headers"]["task"], _queue(each)) for each in messages))
        assert all(("dynprio" in each["headers"]) == manage for each in messages)
        valkey.client.flushdb()
    assert published[0] == published[1]
    assert ((UNLOCK, "celery") in published[0]) == (kind != "cache")


def test_a_backend_without_chords_says_so_as_ever(valkey: Database) -> None:
    app = make_app(valkey.url)
    app.conf.update(result_backend="rpc://")
    DynPrio(app)
    part = app.task(run, name="part", shared=False)
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord([part.si(1), part.si(2)], part.s()).apply_async()
    assert pending(valkey.client) == []


BODY = """
    import pathlib
    import time

    from celery_dynprio import DynPrio, Weight

    app.conf.update(dynprio_policy=1 * Weight(), dynprio_embedded=False)
    DynPrio(app)

    @app.task
    def part(n, gate):
        while not pathlib.Path(gate).exists():
            time.sleep(0.01)
        return n

    @app.task(bind=True)
    def total(self, parts):
        return sum(parts), self.request.dynprio
"""


def test_who_waits_for_the_parts_is_placed_as_the_body_at_each_try(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, tmp_path: Path
) -> None:
    project = make_project(valkey.url, BODY, backend=BACKENDS["database"].format(directory=tmp_path))
    start_worker(project, pool="threads", concurrency=2)
    module = project.load()
    urgent = module.total.s().set(dynprio={"weight": 9, "deadline": 1000, "key": "acme"})
    gate = tmp_path / "gate"
    parts = module.part.s(1, str(gate)), module.part.s(2, str(tmp_path))
    result = chord(parts, urgent).apply_async(interval=0.1, countdown=0.1)

    def tries() -> list[dict[str, Any]]:
        messages = [*pending(valkey.client), *unacknowledged(valkey.client)]
        return [each for each in messages if each["headers"]["task"] == UNLOCK and each["headers"]["retries"] > 1]

    wait_until(lambda: bool(tries()))
    again = tries()[0]
    fields = again["headers"]["dynprio"]
    assert (fields["w"], fields["key"], again["properties"]["priority"]) == (9, "acme", 0)
    assert 900 < fields["due"] - fields["at"] < 1000
    gate.touch()
    summed, header = result.get(timeout=30)
    assert (summed, header["w"], header["key"]) == (3, 9, "acme")


def _queue(message: dict[str, Any]) -> Any:
    return message["properties"]["delivery_info"]["routing_key"]
