"""What ``dynprio top`` reads, of a real broker and worker."""

from __future__ import annotations

from typing import Final

import pytest

from celery_dynprio.cli.top import reader as top_reader
from celery_dynprio.cli.top.reader import RARELY, Reader
from celery_dynprio.cli.top.state import View
from celery_dynprio.operators import views, workers
from tests.conftest import MakeProject, StartWorker
from tests.servers import Database

#: Seconds in which a worker answers on a busy machine.
ANSWER: Final = 5.0

BODY: Final = """
from celery_dynprio import DynPrio, dynprio_task

app.conf.update(dynprio_embedded=False)
dynprio = DynPrio(app)

@dynprio_task(app=app, name="shop.report")
def report(): pass

@dynprio_task(app=app, name="shop.mail")
def mail(): pass
"""


def test_workers_are_asked_rarely(
    make_project: MakeProject, valkey: Database, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "ask", lambda app: workers.ask(app, ANSWER))
    project = make_project(valkey.url, BODY)
    module = project.load()
    worker = start_worker(project, pool="solo")
    worker.wait_for_answer(module.app)
    now = 0.0
    with module.dynprio.operations() as operations:
        reader = Reader(operations, 300.0, lambda: now)
        first = reader.read(View("celery"))
        assert (list(first.stats.workers.slots.values()), first.patience, first.rate) == ([1], 300.0, None)
        worker.container.kill()
        module.report.delay()
        now = RARELY - 0.1
        soon = reader.read(View("celery"))
        assert soon.stats.workers == first.stats.workers
        assert (sum(soon.stats.queues[0].depths), soon.rate) == (1, 0.0)
        assert any(soon.stats.queues[0].oldest)
        now = RARELY
        later = reader.read(View("celery"))
        assert not later.stats.workers.slots


def test_longest_waits_of_a_deep_front_are_read_rarely(
    make_project: MakeProject, valkey: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_reader, "SHALLOW", 1)
    module = make_project(valkey.url, BODY).load()
    now = 0.0

    def waiting(reader: Reader) -> list[tuple[int, bool]]:
        (queue,) = reader.read(View("celery")).stats.queues
        return [
            (depth, wait is not None) for depth, wait in zip(queue.depths, queue.oldest, strict=True) if depth or wait
        ]

    with module.dynprio.operations() as operations:
        reader = Reader(operations, clock=lambda: now)
        ids = [module.report.apply_async(priority=priority).id for priority in (3, 3, 6)]
        assert waiting(reader) == [(2, True), (1, True)]
        operations.cancel(ids[2:])
        module.report.apply_async(priority=9)
        assert waiting(reader) == [(2, True), (1, False)]
        now = RARELY
        assert waiting(reader) == [(2, True), (1, True)]


def test_a_filter_is_part_of_a_name_or_a_pattern(make_project: MakeProject, valkey: Database) -> None:
    module = make_project(valkey.url, BODY).load()
    module.report.delay()
    module.mail.delay()
    held = module.mail.delay().id
    with module.dynprio.operations() as operations:
        operations.hold([held])
        reader = Reader(operations)

        def found(**view: object) -> list[str]:
            return sorted(turn.task.name for turn in reader.read(View("celery", **view)).listing.turns)  # type: ignore[arg-type]

        assert found() == ["shop.mail", "shop.mail", "shop.report"]
        assert found(text="rep") == ["shop.report"]
        assert found(text="rep*") == []
        assert found(text="*.m??l") == ["shop.mail", "shop.mail"]
        assert found(held=True) == ["shop.mail"]
