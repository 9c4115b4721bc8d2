"""What operators see and do, on a real Redis and without workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chord
from celery.exceptions import TaskRevokedError

from celery_dynprio import Age, DynPrio, FairShare, PendingTask, Policy, Weight, dynprio_task, factor, message, tracing
from celery_dynprio.assembly import operations, reprioritizers
from celery_dynprio.brokers.redis import scan
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.search import Search
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.errors import ArgumentError, BrokerUnavailableError, DynPrioError, NotPendingError
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move, Outcome, Run, is_level
from celery_dynprio.operators import cancelling, fates, revocation, views
from celery_dynprio.operators.cancelling import Cancelling
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.steering import Result
from celery_dynprio.operators.workers import Workers
from celery_dynprio.tracing.records import SpanRecord
from tests.messages import pending
from tests.servers import Database

POLICY: Policy = 3 * Weight() + 1 * Age(saturation=3600)


class Shop:
    """An app with tasks of its own, and an operator."""

    def __init__(self, url: str, **conf: Any) -> None:
        self.app = Celery("shop", broker=url, backend=url, set_as_current=False)
        self.app.conf.update({"dynprio_policy": POLICY, **conf})
        self.dynprio = DynPrio(self.app)
        self.client = RedisClient.from_app(self.app)
        self.now = 0.0
        self.operations = operations(
            self.app, RedisBroker(self.client), self.dynprio.settings, "ada@ops", clock=self._clock
        )

        @dynprio_task(app=self.app, name="shop.report", key="tenant")
        def report(tenant: str = "", page: int = 0) -> int:
            return page

        @dynprio_task(app=self.app, name="shop.checkout", weight=9, key="tenant")
        def checkout(tenant: str = "") -> str:
            return tenant

        self.report, self.checkout = report, checkout

    def _clock(self) -> float:
        return time.time() + self.now

    def operator_dies(self) -> None:
        """Long ago, so that the last sign of life is over."""
        self.now += cancelling.ABANDONED + 1
        self.client.redis.delete("dynprio:cancelling")

    def reprioritizer(self) -> Reprioritizer:
        return reprioritizers(RedisBroker(self.client), self.dynprio.settings, "test")[0]

    def ids(self, *args: Any, **kwargs: Any) -> list[str]:
        return [turn.task.id for turn in self.operations.pending(*args, **kwargs).turns]

    def place(self, task_id: str) -> int:
        (turn,) = (each for each in self.operations.pending(workers=Workers()).turns if each.task.id == task_id)
        return turn.place

    def park(self, *ids: str, place: int = OVERFLOW) -> None:
        backlog = RedisBacklog(self.client, "celery")
        found = backlog.find(ids, time.time())
        moves = [Move(found[each][0].task, found[each][0].place, place, 0.0, "overflow") for each in ids]
        assert backlog.apply(moves) == [Outcome.MOVED] * len(ids)


@pytest.fixture
def make_shop(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    monkeypatch.setattr("celery_dynprio.worker.sender.LAST_SEND_TIMEOUT", 60.0)
    monkeypatch.setattr(views, "ask", lambda _app: Workers())
    monkeypatch.setattr("celery_dynprio.operators.fates.ANSWER_TIMEOUT", 0.05)
    made: list[Shop] = []

    def make(**conf: Any) -> Shop:
        made.append(Shop(valkey.url, **conf))
        return made[-1]

    yield make
    for shop in made:
        shop.client.close()
        shop.app.close()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


def answers(results: list[Result]) -> list[Answer]:
    return [result.answer for result in results]


def failing(tries: list[str]) -> Callable[..., str]:
    """In place of what tells the end of a task."""

    def tell(_: Cancelling, __: str, task_id: str, *___: object) -> str:
        tries.append(task_id)
        return "no backend"

    return tell


class TestSee:
    def test_tasks_are_listed_in_the_order_in_which_they_run(self, shop: Shop) -> None:
        reports = [shop.report.delay("ada", page).id for page in range(4)]
        checkout = shop.checkout.delay("bob").id
        pinned = shop.report.apply_async(priority=0).id
        shop.park(reports[1])
        shop.operations.hold([reports[0]])
        page = shop.operations.pending()
        assert [turn.task.id for turn in page.turns] == [pinned, checkout, *reports[2:], reports[1], reports[0]]
        assert [turn.position for turn in page.turns] == [1, 2, 3, 4, 5, None]
        assert [turn.place for turn in page.turns][-2:] == [OVERFLOW, HELD]
        assert page.matching == 6

    def test_a_first_page_is_the_beginning_of_the_whole_list(self, shop: Shop) -> None:
        for page in range(30):
            shop.report.delay("ada", page)
            shop.checkout.delay("bob")
        whole = shop.ids()
        assert len(whole) == 60
        for limit in (0, 1, 7, 59, 60, 61):
            found = shop.operations.pending(limit=limit, workers=Workers())
            assert ([turn.task.id for turn in found.turns], found.matching) == (whole[:limit], 60)

    def test_a_page_that_ends_far_down_is_a_part_of_the_whole_list(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("celery_dynprio.brokers.redis.front.REACH", 5)
        monkeypatch.setattr(views, "QUICK", 2)
        for _ in range(12):
            shop.checkout.delay("bob")
            shop.report.delay("ada", 0)
        whole = shop.ids()
        for limit in (2, 3, 7, 20):
            assert shop.ids(limit=limit, workers=Workers()) == whole[:limit]

    def test_a_survey_is_the_whole_list_or_what_runs_next(self, shop: Shop) -> None:
        reports = [shop.report.delay("ada", page).id for page in range(4)]
        checkout = shop.checkout.delay("bob").id
        shop.park(reports[1])
        shop.operations.hold([reports[0]])
        whole = shop.operations.survey(9, Workers())
        assert ([turn.task.id for turn in whole.turns], whole.matching) == (
            [checkout, *reports[2:], reports[1], reports[0]],
            5,
        )
        part = shop.operations.survey(4, Workers())
        assert ([turn.task.id for turn in part.turns], part.matching) == ([checkout, *reports[2:], reports[0]], 5)

    def test_filters(self, shop: Shop) -> None:
        mine, theirs = shop.report.delay("ada").id, shop.report.delay("bob").id
        with tracing.use() as span:
            traced = shop.checkout.delay("ada").id
        held, parked = shop.report.delay("eve").id, shop.report.delay("eve").id
        shop.operations.hold([held])
        shop.park(parked)
        assert set(shop.ids(Filter(task="shop.rep*"))) == {mine, theirs, held, parked}
        assert shop.ids(Filter(key="ada")) == [traced, mine]
        assert shop.ids(Filter(key="eve")) == [parked, held]
        assert shop.ids(Filter(level=shop.place(mine))) == [mine, theirs]
        assert shop.ids(Filter(trace=span.trace_id)) == [traced]
        assert shop.ids(Filter(trace="0" * 32)) == []
        assert shop.ids(Filter(held=True)) == [held]
        assert held not in shop.ids(Filter(held=False))
        assert shop.ids(Filter(older=3600)) == []
        assert shop.ids(Filter(task="shop.report", key="bob", queue="celery")) == [theirs]
        assert shop.operations.pending(Filter(task="shop.*"), 2, workers=Workers()).matching == 5

    @pytest.mark.parametrize(
        ("wanted", "said"),
        [
            ({"level": 10}, "level = 10: use a level from 0, the first, to 9"),
            ({"older": float("nan")}, "older = nan: use seconds as a number, a timedelta"),
            ({"trace": "xyz"}, "trace = 'xyz': use the 32 hexadecimal digits"),
            ({"queue": "other"}, "queue = 'other': not managed; dynprio_queues has celery"),
        ],
    )
    def test_what_nothing_can_be_is_an_error(self, shop: Shop, wanted: dict[str, Any], said: str) -> None:
        with pytest.raises(ArgumentError) as error:
            shop.operations.pending(Filter(**wanted))
        assert said in str(error.value)

    def test_starts_are_expected_by_runtimes_and_workers(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        both = Workers({"one": 2, "other": 4}, {"one": frozenset({"celery"}), "other": frozenset({"mails"})})
        monkeypatch.setattr(views, "ask", lambda _app: both)
        RedisUsage(shop.client).add([Run("shop.report", "", 10.0), Run("shop.checkout", "", 1.0)])
        for _ in range(3):
            shop.report.delay()
        shop.checkout.delay()
        now = time.time()
        turns = shop.operations.pending().turns
        assert [turn.task.name for turn in turns] == ["shop.checkout", *["shop.report"] * 3]
        expected = [turn.expected for turn in turns]
        assert [each and round(each - now) for each in expected] == [0, 0, 1, 10]
        assert shop.operations.pending(limit=2).turns[1].expected is not None

    def test_the_explanation_of_a_task_in_the_front(self, shop: Shop) -> None:
        first, second = shop.report.delay("ada").id, shop.report.delay("ada").id
        checkout = shop.checkout.delay("bob").id
        shop.operations.reprioritize([second], {"key": "eve"}, "as they asked")
        told = shop.operations.explain(second)
        assert (told.turn.position, told.turn.task.key) == (3, "eve")
        assert [each.factor for each in told.contributions] == ["Weight", "Age"]
        assert sum(each.contribution for each in told.contributions) == pytest.approx(told.turn.score, abs=1e-3)
        assert dict(told.ahead_by_place) == {shop.place(checkout): 1, shop.place(first): 1}
        assert [each.task.id for each in told.ahead] == [first, checkout]
        assert told.ahead[0].reason == f"came to P{shop.place(first)} before it"
        assert told.ahead[1].reason == "Weight +0.600"
        assert [move.reason for move in told.moves] == ["reprioritize"]
        assert [(entry.op, entry.by, entry.why) for entry in told.operations] == [
            ("reprioritize", "ada@ops", "as they asked")
        ]
        assert len(told.trace_id) == 32
        assert told.in_front is not None

    def test_the_explanation_of_what_is_parked_pinned_and_held(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(views, "ask", lambda _app: Workers({"one": 1}, {"one": frozenset({"celery"})}))
        RedisUsage(shop.client).add([Run("shop.report", "", 10.0)])
        front, parked, behind, held = (shop.report.delay("ada").id for _ in range(4))
        pinned = shop.report.apply_async(priority=2).id
        shop.park(parked, behind)
        shop.operations.hold([held])
        now = time.time()
        told = shop.operations.explain(behind)
        assert (told.turn.position, told.ahead_by_place[OVERFLOW]) == (4, 1)
        assert told.in_front == pytest.approx(now + 10, abs=2)  # one is parked before it: the second start makes room
        assert told.start is not None
        assert now + 5 < told.start.low < told.start.median < told.start.high
        assert shop.operations.explain(pinned).contributions == ()
        assert [each.reason for each in shop.operations.explain(front).ahead] == ["pinned to P2"]
        told = shop.operations.explain(held)
        assert (told.turn.position, told.in_front, told.start, told.ahead) == (None, None, None, [])

    def test_only_pending_tasks_are_explained(self, shop: Shop) -> None:
        with pytest.raises(NotPendingError, match="task 'nobody' is not pending in celery: not found") as error:
            shop.operations.explain("nobody")
        assert (error.value.task_id, error.value.answer) == ("nobody", "not found")

    def test_a_broken_policy_is_explained_by_its_places(self, make_shop: Callable[..., Shop]) -> None:
        @factor
        def broken(task: PendingTask, context: Any) -> float:
            raise ZeroDivisionError

        shop = make_shop(dynprio_policy=1 * broken)
        task_id = shop.report.delay().id
        assert shop.operations.explain(task_id).contributions == ()

    def test_stats(self, shop: Shop) -> None:
        for page in range(3):
            shop.report.delay("ada", page)
        held, parked = shop.report.delay().id, shop.report.delay().id
        shop.operations.hold([held])
        shop.park(parked)
        shop.client.redis.lpush("celery", "nonsense")
        RedisUsage(shop.client).add([Run("shop.report", "ada", 2.0)])
        shop.reprioritizer().lease.acquire()
        shop.operations.pause("a quiet hour")
        stats = shop.operations.stats()
        (queue,) = stats.queues
        level = shop.place(shop.ids()[0])
        assert (queue.depths[level], queue.depths[0], queue.overflow, queue.held) == (3, 1, 1, 1)
        assert queue.oldest[level] is not None
        assert queue.oldest[(level + 1) % 10] is None
        assert (dict(queue.foreign), queue.moves) == ({"not JSON": 1}, 2)
        assert (queue.leader and queue.leader.owner, stats.paused) == ("test", True)
        assert (round(stats.use["ada"]), stats.runtimes["shop.report"]) == (2, 2.0)
        assert (stats.pause and stats.pause.by, stats.pause and stats.pause.why) == ("ada@ops", "a quiet hour")
        shop.operations.resume()
        quick = shop.operations.stats(oldest=False)
        assert (quick.paused, quick.pause, quick.queues[0].depths) == (False, None, queue.depths)

    def test_another_policy_is_tried_and_moves_nothing(self, shop: Shop) -> None:
        RedisUsage(shop.client).add([Run("shop.checkout", "bob", 1000.0), Run("shop.report", "ada", 1.0)])
        reports = [shop.report.delay("ada").id for _ in range(3)]
        checkout = shop.checkout.delay("bob").id
        shop.report.apply_async(priority=0)
        before = shop.ids()
        (told,) = shop.operations.compare(1 * FairShare())
        assert [(each.task.id, each.before, each.after) for each in told.shifts] == [
            *((each, number + 2, number + 1) for number, each in enumerate(reports)),
            (checkout, 1, 4),
        ]
        assert shop.ids() == before


class TestSteer:
    def test_the_first_that_is_bumped_runs_first_and_no_tick_undoes_it(self, shop: Shop) -> None:
        checkouts = [shop.checkout.delay("bob").id for _ in range(3)]
        one, two, parked = (shop.report.delay("ada").id for _ in range(3))
        shop.park(parked)
        assert answers(shop.operations.bump([one, parked])) == [Answer.DONE] * 2
        assert answers(shop.operations.bump([two])) == [Answer.DONE]
        tick = shop.reprioritizer()
        for _ in range(3):
            tick.tick()
        assert shop.ids() == [two, one, parked, *checkouts]
        assert {shop.place(each) for each in (one, two, parked)} == {0}

    def test_what_is_set_by_hand_sticks(self, shop: Shop) -> None:
        plain = [shop.report.delay("ada", page).id for page in range(20)]
        heavy, pinned, parked, held = (shop.report.delay("ada").id for _ in range(4))
        shop.park(parked)
        shop.operations.hold([held])
        steer, before = shop.operations.reprioritize, time.time()
        assert answers(steer([heavy, parked, held], {"weight": 10, "deadline": 60, "key": "eve"})) == [Answer.DONE] * 3
        assert answers(steer([pinned], {"level": 3})) == [Answer.DONE]
        assert shop.place(pinned) == 3
        tick = shop.reprioritizer()
        for _ in range(3):
            tick.tick()
        assert [shop.place(pinned), shop.place(held)] == [3, HELD]
        assert max(shop.place(heavy), shop.place(parked)) < min(map(shop.place, plain))
        assert set(shop.ids(Filter(key="eve"))) == {heavy, parked, held}
        (told,) = (turn.task for turn in shop.operations.pending(Filter(held=True), workers=Workers()).turns)
        assert (told.weight, told.key) == (10.0, "eve")
        assert before + 59 <= (told.deadline or 0.0) <= time.time() + 61
        steer([heavy, pinned], {"weight": 0, "deadline": None, "key": None, "level": None})
        tick.tick()
        assert min(shop.place(heavy), shop.place(pinned)) >= max(map(shop.place, plain))
        assert shop.ids(Filter(key="eve")) == [parked, held]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({}, "give weight, deadline, key or level"),
            ({"weight": 11}, "weight = 11: use a number from 0 to 10"),
            ({"deadline": "soon"}, "deadline = 'soon': use seconds as a number, a timedelta"),
            ({"level": 10}, "level = 10: use a level from 0, the first, to 9, or None"),
            ({"level": True}, "level = True"),
            ({"wieght": 1}, "wieght = 1"),
        ],
    )
    def test_wrong_changes_name_the_value_and_change_nothing(
        self, shop: Shop, changes: dict[str, object], said: str
    ) -> None:
        task_id = shop.report.delay("ada").id
        before = pending(shop.client.redis)
        with pytest.raises(ArgumentError) as error:
            shop.operations.reprioritize([task_id], changes)
        assert said in str(error.value)
        assert pending(shop.client.redis) == before
        assert [message["headers"]["id"] for message in before] == [task_id]
        assert shop.operations.log() == []

    def test_held_tasks_come_back_when_they_are_released(self, shop: Shop) -> None:
        front, parked, pinned = shop.checkout.delay().id, shop.report.delay().id, shop.report.apply_async(priority=6).id
        level = shop.place(front)
        shop.park(parked)
        everything = [front, parked, pinned]
        assert answers(shop.operations.hold(everything, "the bank is down")) == [Answer.DONE] * 3
        assert shop.client.redis.hlen("dynprio:celery:held") == 3
        shop.reprioritizer().tick()
        assert [shop.place(each) for each in everything] == [HELD] * 3
        assert [result.detail for result in shop.operations.hold([front])] == ["already held"]
        assert answers(shop.operations.bump([parked])) == [Answer.DONE]
        assert shop.place(parked) == HELD
        assert answers(shop.operations.release(everything)) == [Answer.DONE] * 3
        assert [shop.place(each) for each in everything] == [level, 0, 6]
        assert [result.detail for result in shop.operations.release([front])] == ["not held"]

    def test_a_task_that_is_moved_between_the_look_and_the_deed_is_found_again(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task_id = shop.report.delay().id
        places = iter([0, OVERFLOW, 5])
        find = RedisBacklog.find

        def find_too_late(self: RedisBacklog, ids: Any, now: float) -> Any:
            found = find(self, ids, now)
            place = next(places, None)
            if place is not None:
                other = RedisBacklog(shop.client, "celery")
                (((task, source, _),),) = find(other, ids, now).values()
                other.apply([Move(task, source, place, 0.5, "score")])
            return found

        monkeypatch.setattr(RedisBacklog, "find", find_too_late)
        assert answers(shop.operations.hold([task_id])) == [Answer.DONE]
        monkeypatch.undo()
        assert shop.client.redis.hkeys("dynprio:celery:held") == [task_id.encode()]

    def test_the_look_is_repeated_while_others_move(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        task_id = shop.report.delay().id
        look = Search.in_front
        moved = iter([True])

        def moved_past(self: Search, ids: Any, now: float) -> Any:
            found = look(self, ids, now)
            if next(moved, False):
                other = RedisBacklog(shop.client, "celery")
                (((task, source, _),),) = other.find(ids, now).values()
                other.apply([Move(task, source, 0, 0.5, "score")])
                return []  # as if it had been moved to where this look had already been
            return found

        monkeypatch.setattr(Search, "in_front", moved_past)
        assert RedisBacklog(shop.client, "celery").find([task_id], 0.0)[task_id][0].place == 0

    def test_operators_are_told_what_became_of_a_task(self, shop: Shop) -> None:
        reserved = shop.report.delay().id
        connection = shop.app.connection_for_write()
        taken = connection.channel().basic_get("celery")
        assert taken is not None
        for task_id, state in (("finished", "SUCCESS"), ("started", "STARTED")):
            shop.app.backend.store_result(task_id, None, state)
        spans = RedisSpans(shop.client)
        spans.add(
            [SpanRecord("1" * 32, "k", "traced", "a", "IGNORED"), SpanRecord("2" * 32, "k", "runs", "a", "STARTED")]
        )
        ids = [reserved, "finished", "started", "traced", "runs", "nobody", 'hostile"\\\n*', "ünknown"]
        told = shop.operations.hold(ids)
        assert [result.id for result in told] == ids
        assert answers(told) == [
            Answer.RESERVED,
            Answer.FINISHED,
            Answer.RUNNING,
            Answer.FINISHED,
            Answer.RUNNING,
            *[Answer.NOT_FOUND] * 3,
        ]
        connection.release()

    def test_ids_of_any_text_are_found(self, shop: Shop) -> None:
        ids = ["ünïcode", 'quote"d', "back\\slash", "*[a-z]?", "x" * 255, "\U0001f600"]
        for task_id in ids:
            shop.report.apply_async(task_id=task_id)
        for task_id in ids:
            assert answers(shop.operations.hold([task_id])) == [Answer.DONE], task_id
        assert answers(shop.operations.release(ids)) == [Answer.DONE] * len(ids)
        many = [shop.report.delay().id for _ in range(30)]
        assert answers(shop.operations.hold(many)) == [Answer.DONE] * 30

    def test_without_results_the_rest_still_tells(self, valkey: Database, make_shop: Callable[..., Shop]) -> None:
        shop = make_shop(result_backend="disabled")
        RedisSpans(shop.client).add([SpanRecord("1" * 32, "k", "traced", "a", "SUCCESS")])
        assert answers(shop.operations.bump(["traced", "nobody"])) == [Answer.FINISHED, Answer.NOT_FOUND]
        task_id = shop.report.delay().id
        assert answers(shop.operations.cancel([task_id])) == [Answer.DONE]
        assert valkey.client.hlen("dynprio:celery:cancelled") == 0


class TestCancel:
    def test_a_cancelled_task_is_gone_and_its_result_is_revoked(self, shop: Shop) -> None:
        results = [shop.report.delay("ada", page) for page in range(3)]
        shop.park(results[1].id)
        shop.operations.hold([results[2].id])
        assert answers(shop.operations.cancel([each.id for each in results], "a typing error")) == [Answer.DONE] * 3
        assert [each.state for each in results] == ["REVOKED"] * 3
        assert shop.operations.pending(workers=Workers()).matching == 0
        assert RedisBacklog(shop.client, "celery").count()[CANCELLED] == 0
        assert answers(shop.operations.cancel([results[0].id])) == [Answer.CANCELLED]
        trace = RedisSpans(shop.client).read(results[0].id)
        assert trace is not None
        assert [span.state for span in trace.spans] == ["REVOKED"]

    def test_a_chord_that_waits_for_it_fails(self, shop: Shop) -> None:
        body = chord([shop.report.s("ada", 1), shop.report.s("ada", 2)])(shop.checkout.s())
        assert body.parent is not None
        shop.operations.cancel([body.parent.results[0].id])
        with pytest.raises(TaskRevokedError):
            body.get(timeout=5)

    def test_tasks_that_this_app_does_not_know_or_cannot_read(self, shop: Shop) -> None:
        unknown = shop.app.send_task("other.task", (1,), queue="celery")
        pickled = shop.report.apply_async(("ada",), serializer="pickle")
        shop.client.redis.lpush(
            "celery",
            json.dumps({"body": "???", "headers": {"id": "odd", "task": "shop.report"}, "properties": {"priority": 0}}),
        )
        assert answers(shop.operations.cancel([unknown.id, pickled.id, "odd"])) == [Answer.DONE] * 3
        assert [unknown.state, pickled.state, shop.app.AsyncResult("odd").state] == ["REVOKED"] * 3

    def test_a_cancelled_task_whose_operator_died_is_told_later(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        result = shop.report.delay("ada")
        monkeypatch.setattr(cancelling, "revoke", die)
        with pytest.raises(KeyboardInterrupt):
            shop.operations.cancel([result.id])
        monkeypatch.undo()
        assert answers(shop.operations.hold([result.id])) == [Answer.CANCELLED]
        assert (result.state, shop.operations.pending(workers=Workers()).matching) == ("PENDING", 0)
        tick = shop.reprioritizer()
        report = tick.tick()
        assert (report.cancelled, report.front) == (1, 0)
        assert shop.operations.finish() == 0  # the operator may be about to
        shop.operator_dies()
        assert shop.operations.finish() == 1
        assert result.state == "REVOKED"
        assert tick.tick().cancelled == 0

    def test_a_living_operator_is_not_taken_for_dead_however_long_it_takes(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leader = operations(shop.app, RedisBroker(shop.client), shop.dynprio.settings, clock=shop._clock)
        told: list[int] = []
        revoke = revocation.revoke

        def slow(*arguments: Any) -> None:
            shop.now += cancelling.ABANDONED + 1
            told.append(leader.finish())
            revoke(*arguments)

        monkeypatch.setattr(cancelling, "revoke", slow)
        monkeypatch.setattr(cancelling, "SIGN_INTERVAL", 0.0)
        results = [shop.report.delay("ada") for _ in range(3)]
        shop.operations.cancel([result.id for result in results])
        assert told == [0, 0, 0]
        assert 0 < shop.client.redis.pttl("dynprio:cancelling") <= 1000 * cancelling.ABANDONED

    def test_the_work_of_a_dead_operator_is_done_in_slices(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        results = [shop.report.delay("ada") for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(Cancelling, "publish_end", lambda *_: "not told")
            shop.operations.cancel([result.id for result in results])
        shop.operator_dies()
        monkeypatch.setattr(cancelling, "SLICE_SECONDS", -1.0)
        assert [shop.operations.finish() for _ in range(4)] == [1, 1, 1, 0]
        assert {result.state for result in results} == {"REVOKED"}

    def test_an_end_that_cannot_be_told_does_not_keep_the_others_from_being_told(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        results = [shop.report.delay("ada") for _ in range(5)]
        revoke, odd = revocation.revoke, results[2].id
        tries: list[str] = []

        def some(app: Any, broker: Any, task_id: str, *message: Any) -> None:
            tries.append(task_id)
            if task_id == odd:
                raise ConnectionError("not this one")
            revoke(app, broker, task_id, *message)

        with monkeypatch.context() as patch:
            patch.setattr(Cancelling, "publish_end", lambda *_: "not told")
            shop.operations.cancel([result.id for result in results])
        shop.operator_dies()
        monkeypatch.setattr(cancelling, "revoke", some)
        monkeypatch.setattr(cancelling, "SLICE_SECONDS", -1.0)
        assert sum(shop.operations.finish() for _ in range(6)) == 4
        assert tries.count(odd) <= 1

    @pytest.mark.parametrize(("away", "tried"), [(-1.0, 1), (60.0, 3)])
    def test_a_result_backend_that_is_away_does_not_stop_the_ticks(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, away: float, tried: int
    ) -> None:
        tries: list[str] = []
        ids = [shop.report.delay("ada").id for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(Cancelling, "publish_end", lambda *_: "not told")
            shop.operations.cancel(ids)
        shop.operator_dies()
        monkeypatch.setattr(cancelling, "AWAY", away)  # each try takes longer, and none does
        monkeypatch.setattr(cancelling, "SLICE_SECONDS", 60.0)
        monkeypatch.setattr(Cancelling, "publish_end", failing(tries))
        assert [shop.operations.finish() for _ in range(3)] == [0, 0, 0]
        assert len(tries) == tried

    def test_ends_that_cannot_be_told_take_no_more_than_a_slice(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = [shop.report.delay("ada").id for _ in range(4)]
        tries: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(Cancelling, "publish_end", lambda *_: "not told")
            shop.operations.cancel(ids)
        shop.operator_dies()
        monkeypatch.setattr(cancelling, "SLICE_SECONDS", -1.0)
        monkeypatch.setattr(cancelling, "RETRY", 0.0)
        monkeypatch.setattr(Cancelling, "publish_end", failing(tries))
        for _ in ids:
            shop.operations.finish()
        assert sorted(tries) == sorted(ids), "who failed before comes last"

    def test_a_result_backend_that_is_away_delays_the_result_only(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise ConnectionError("no backend")

        result = shop.report.delay("ada")
        with monkeypatch.context() as patch:
            patch.setattr(type(shop.app.backend), "mark_as_revoked", away)
            (told,) = shop.operations.cancel([result.id])
        assert told.answer is Answer.DONE
        assert told.detail == "removed; its result becomes REVOKED once the result backend answers: no backend"
        shop.operator_dies()
        assert (shop.operations.finish(), result.state) == (1, "REVOKED")


class TestAbbreviations:
    def publish(self, shop: Shop, *ids: str) -> None:
        for task_id in ids:
            shop.report.apply_async(task_id=task_id)

    def test_the_beginning_of_one_pending_id_stands_for_it(self, shop: Shop) -> None:
        self.publish(shop, "abc-1", "abd-2", 'x"*[y', "abe-held", "abf-parked", "önly")
        shop.operations.hold(["abe-held"])
        shop.park("abf-parked")
        texts = ["abc", "abd-2", 'x"*', "abe", "abf-p", "ö", "nobody"]
        assert [shop.operations.whole_id(text) for text in texts] == [
            "abc-1",
            "abd-2",
            'x"*[y',
            "abe-held",
            "abf-parked",
            "önly",
            "nobody",
        ]

    def test_an_id_that_is_the_beginning_of_another_is_meant(self, shop: Shop) -> None:
        self.publish(shop, "invoice-4", "invoice-42")
        assert shop.operations.whole_id("invoice-4") == "invoice-4"

    def test_several_candidates_are_listed(self, shop: Shop) -> None:
        self.publish(shop, *(f"job-{number}" for number in range(7)))
        with pytest.raises(ArgumentError) as error:
            shop.operations.whole_id("job")
        assert str(error.value) == (
            "id = 'job': ambiguous; give more of it: job-0, job-1, job-2, job-3, job-4 and 2 more"
        )
        with pytest.raises(ArgumentError, match="id = '': use an id, or the beginning of one"):
            shop.operations.whole_id("")

    def test_then_what_workers_have_and_what_operators_did(self, shop: Shop) -> None:
        self.publish(shop, "reserved-1", "cancelled-1")
        connection = shop.app.connection_for_write()
        assert connection.channel().basic_get("celery") is not None
        shop.operations.cancel(["cancelled-1"])
        assert shop.operations.whole_id("res") == "reserved-1"
        assert shop.operations.whole_id("can") == "cancelled-1"
        assert shop.operations.logged_id("can") == "cancelled-1"
        assert shop.operations.logged_id("res") == "res"
        connection.release()


class TestWhileOthersMove:
    """A reprioritizer parks, and brings back, while an operator looks."""

    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[Callable[[], object]]], None]:
        """Does the next of these things in the middle of each level's read."""

        def do(things: Iterator[Callable[[], object]]) -> None:
            read = Reader.tail

            def interrupted(*args: Any) -> Iterator[tuple[int, Any]]:
                found = read(*args)
                yield from islice(found, 1)
                if args[-1]:
                    next(things, lambda: None)()
                yield from found

            monkeypatch.setattr(Reader, "tail", interrupted)

        return do

    def publish(self, shop: Shop, count: int) -> set[str]:
        return {shop.report.delay("ada", page).id for page in range(count)}

    def test_a_filter_sees_all_that_is_parked_meanwhile(self, shop: Shop, meanwhile: Callable[..., None]) -> None:
        ids = self.publish(shop, 700)
        leader = RedisBacklog(shop.client, "celery")
        meanwhile(iter([lambda: leader.spill(300, 0.0), lambda: leader.spill(100, 0.0)]))
        page = shop.operations.pending(Filter(task="shop.*"), workers=Workers())
        assert (leader.count()[OVERFLOW], page.matching, page.missed) == (400, 700, 0)
        assert {turn.task.id for turn in page.turns} == ids
        assert answers(shop.operations.hold([turn.task.id for turn in page.turns])) == [Answer.DONE] * 700
        assert leader.count()[HELD] == 700

    def test_how_many_may_be_missed_is_said(self, shop: Shop, meanwhile: Callable[..., None]) -> None:
        ids = self.publish(shop, 600)
        leader = RedisBacklog(shop.client, "celery")
        meanwhile(iter(partial(leader.spill, count, 0.0) for count in (50, 40, 30, 20, 10)))
        page = shop.operations.pending(Filter(task="shop.*"), workers=Workers())
        assert page.missed == 10
        assert len(ids - {turn.task.id for turn in page.turns}) <= 10
        assert shop.operations.pending(Filter(task="shop.*"), workers=Workers()).missed == 0

    def test_of_a_very_deep_backlog_the_front_is_looked_at_again(
        self, shop: Shop, meanwhile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "DEEP", 100)
        ids = self.publish(shop, 700)
        leader = RedisBacklog(shop.client, "celery")
        leader.spill(300, 0.0)
        parked = leader.read(0.0).overflow

        def refill() -> None:
            leader.apply([Move(task, OVERFLOW, 0, 0.5, "refill") for task in list(parked.values())])

        (level,) = {turn.place for turn in shop.operations.pending(workers=Workers()).turns} - {OVERFLOW}
        assert level > 0, "the look has passed where they come back"
        meanwhile(iter([refill]))
        page = shop.operations.pending(Filter(task="shop.*"), workers=Workers())
        assert ({turn.task.id for turn in page.turns}, page.missed) == (ids, 300)

    def test_a_task_that_is_moved_is_explained(self, shop: Shop, meanwhile: Callable[..., None]) -> None:
        ids = [shop.report.delay("ada", page).id for page in range(300)]
        leader = RedisBacklog(shop.client, "celery")
        things = [partial(leader.spill, 30, 0.0) for _ in range(6)]
        meanwhile(iter(things))
        assert shop.operations.explain(ids[-90]).turn.task.id == ids[-90]


class TestSelection:
    """What a filter found is not looked for again, unless it may be somewhere else by then."""

    @pytest.fixture
    def finds(self, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
        """The ids that were looked for."""
        find, found = RedisBacklog.find, list[set[str]]()

        def noted(self: RedisBacklog, ids: Any, now: float) -> Any:
            found.append(set(ids))
            return find(self, ids, now)

        monkeypatch.setattr(RedisBacklog, "find", noted)
        return found

    def test_an_operation_does_not_look_for_it_again(self, shop: Shop, finds: list[set[str]]) -> None:
        ids = [shop.report.delay("ada", page).id for page in range(5)]
        shop.checkout.delay("ada")
        shop.park(*ids[:2])
        finds.clear()
        selection = shop.operations.select(Filter(task="shop.report"))
        assert (set(selection.ids), selection.matching, selection.missed) == (set(ids), 5, 0)
        assert answers(shop.operations.hold(selection)) == [Answer.DONE] * 5
        assert finds == []
        assert answers(shop.operations.release(shop.operations.select(Filter(held=True)))) == [Answer.DONE] * 5
        assert finds == []
        assert sorted(shop.ids(Filter(task="shop.report"), workers=Workers())) == sorted(ids)

    def test_what_was_moved_since_is_looked_for(self, shop: Shop, finds: list[set[str]]) -> None:
        ids = [shop.report.delay("ada", page).id for page in range(5)]
        selection = shop.operations.select(Filter(task="shop.report"))
        shop.park(ids[1])
        shop.operations.bump([ids[2]])
        finds.clear()
        assert answers(shop.operations.hold(selection)) == [Answer.DONE] * 5
        assert finds == [{ids[1], ids[2]}]
        assert RedisBacklog(shop.client, "celery").count()[HELD] == 5

    def test_what_was_delivered_since_is_not_pending(self, shop: Shop) -> None:
        ids = [shop.report.delay("ada", page).id for page in range(3)]
        selection = shop.operations.select(Filter(task="shop.report"))
        shop.app.control.purge()
        results = shop.operations.hold(selection)
        assert [(result.id, result.answer) for result in results] == [(task_id, Answer.NOT_FOUND) for task_id in ids]

    def test_a_limit_takes_those_that_run_next(self, shop: Shop) -> None:
        ids = [shop.report.delay("ada", page).id for page in range(5)]
        selection = shop.operations.select(Filter(task="shop.report"), 2)
        assert (list(selection.ids), selection.matching) == (ids[:2], 5)
        shop.operations.hold(selection)
        assert RedisBacklog(shop.client, "celery").count()[HELD] == 2

    def test_all_messages_with_an_id_are_meant(self, shop: Shop) -> None:
        for level in (3, 3, 6):
            shop.report.apply_async(("ada",), task_id="invoice-42", priority=level)
        (result,) = shop.operations.hold(shop.operations.select(Filter(level=3)))
        assert (result.messages, result.detail) == (3, "all of 3 messages with this id")

    def test_more_than_are_kept_are_looked_for(
        self, shop: Shop, finds: list[set[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("celery_dynprio.operators.sightings.MOST_KEPT", 2)
        for page in range(5):
            shop.report.delay("ada", page)
        assert answers(shop.operations.hold(shop.operations.select(Filter(task="*")))) == [Answer.DONE] * 5
        assert [len(ids) for ids in finds] == [3]


class TestSeveralMessagesWithOneId:
    """An app gives ids of its own, an invoice's number, and publishes twice."""

    ID = "invoice-42"

    def messages(self, shop: Shop, **where: int) -> None:
        """Publish so many: into the front, parked as overflow, held."""
        for place, count in where.items():
            for _ in range(count):
                shop.report.apply_async(("ada",), task_id=self.ID)
                if place != "front":
                    shop.park(self.ID, place={"parked": OVERFLOW, "held": HELD}[place])

    def counts(self, shop: Shop) -> tuple[int, int, int]:
        counts = RedisBacklog(shop.client, "celery").count()
        return sum(count for place, count in counts.items() if is_level(place)), counts[OVERFLOW], counts[HELD]

    @pytest.mark.parametrize(
        "where",
        [{"front": 2}, {"parked": 1, "front": 1}, {"held": 1, "front": 1}, {"held": 1, "parked": 1, "front": 2}],
    )
    def test_all_are_held_and_come_back(self, shop: Shop, where: dict[str, int]) -> None:
        self.messages(shop, **where)
        count, held = sum(where.values()), where.get("held", 0)
        (result,) = shop.operations.hold([self.ID])
        assert (result.answer, result.messages, self.counts(shop)) == (Answer.DONE, count - held, (0, 0, count))
        rest = ", the rest: already held" if held else ""
        assert result.detail == f"{count - held if held else 'all'} of {count} messages with this id{rest}"
        assert [each.task for each in shop.operations.log(task_id=self.ID)] == ["shop.report"] * (count - held)
        shop.reprioritizer().tick()
        assert self.counts(shop) == (0, 0, count)
        assert [result.detail for result in shop.operations.hold([self.ID])] == ["already held"]
        (result,) = shop.operations.release([self.ID])
        assert (result.messages, self.counts(shop)) == (count, (count, 0, 0))
        assert len(pending(shop.client.redis)) == count

    @pytest.mark.parametrize("where", [{"front": 2}, {"parked": 1, "front": 1}, {"held": 2, "front": 1}])
    def test_all_are_cancelled_and_told_once(
        self, shop: Shop, where: dict[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = []
        monkeypatch.setattr(cancelling, "revoke", lambda *args: told.append(args[2]))
        self.messages(shop, **where)
        (result,) = shop.operations.cancel([self.ID])
        assert (result.messages, told) == (sum(where.values()), [self.ID])
        assert result.detail == f"all of {result.messages} messages with this id"
        assert shop.client.redis.keys("dynprio:celery:*") == [b"dynprio:celery:moves"]
        assert pending(shop.client.redis) == []

    def test_those_whose_operator_died_are_told_once(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        self.messages(shop, front=3)
        monkeypatch.setattr(cancelling, "revoke", die)
        with pytest.raises(KeyboardInterrupt):
            shop.operations.cancel([self.ID])
        monkeypatch.undo()
        assert RedisBacklog(shop.client, "celery").count()[CANCELLED] == 3
        shop.operator_dies()
        assert (shop.operations.finish(), shop.app.AsyncResult(self.ID).state) == (1, "REVOKED")
        assert RedisBacklog(shop.client, "celery").count()[CANCELLED] == 0

    def test_all_are_bumped_in_their_order_and_changed(self, shop: Shop) -> None:
        shop.checkout.delay("bob")
        for page in range(3):
            shop.report.apply_async(("ada", page), task_id=self.ID)
        shop.park(self.ID)
        assert [result.messages for result in shop.operations.bump([self.ID])] == [3]
        with shop.app.connection_for_read() as connection:
            queue = connection.channel()
            bodies = [queue.basic_get("celery", no_ack=True).decode() for _ in range(4)]
        assert [body[0] for body in bodies] == [["ada", 1], ["ada", 2], ["ada", 0], ["bob"]]
        self.messages(shop, held=2, parked=1, front=1)
        assert [result.messages for result in shop.operations.reprioritize([self.ID], {"weight": 7})] == [4]
        assert {each["headers"]["dynprio"]["w"] for each in pending(shop.client.redis)} == {7}

    def test_a_drain_ends_whatever_cannot_be_brought_back(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        odd, plain = (shop.report.delay("ada").id for _ in range(2))
        shop.park(odd, plain)
        rewrite = message.rewrite

        def deep(raw: bytes, priority: Any, task: PendingTask, *arguments: Any) -> bytes:
            if task.id == odd:
                raise RecursionError  # as of what is nested so deeply that it could just be read
            return rewrite(raw, priority, task, *arguments)

        monkeypatch.setattr(message, "rewrite", deep)
        (drained,) = shop.operations.drain(time.time())
        assert drained.returned == 1
        assert [is_level(shop.place(each)) for each in (odd, plain)] == [False, True]

    def test_a_drain_brings_all_back(self, shop: Shop) -> None:
        self.messages(shop, held=3, front=1)
        assert [each.returned for each in shop.operations.drain(time.time(), held=True)] == [3]
        assert self.counts(shop) == (4, 0, 0)

    def test_another_reprioritizer_and_its_explanation(self, shop: Shop) -> None:
        self.messages(shop, front=2)
        assert shop.operations.explain(self.ID).messages == 2
        report = shop.reprioritizer().tick()
        assert (dict(report.foreign), self.counts(shop)) == ({"duplicate id": 1}, (2, 0, 0))

    def test_one_that_comes_again_because_others_are_published_meanwhile_is_one_message(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.messages(shop, front=2)
        look, pushes = Reader.look, iter(range(20))

        def small(self: Reader, key: str, start: int, count: int, texts: Any = ("",)) -> Any:
            part = look(self, key, start, min(count, 1), texts)
            if part.found and next(pushes, None) is not None:
                shop.report.delay("bob")
            return part

        monkeypatch.setattr(Reader, "look", small)
        (result,) = shop.operations.hold([self.ID])
        assert (result.messages, result.detail) == (2, "all of 2 messages with this id")

    def test_one_that_is_moved_while_this_looks_is_one_message(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.report.apply_async(task_id=self.ID)
        look, moved = Search.in_front, iter([True])

        def seen_twice(self: Search, ids: Any, now: float) -> Any:
            found = look(self, ids, now)
            if next(moved, False):
                other = RedisBacklog(shop.client, "celery")
                (((task, source, _),),) = other.find(ids, now).values()
                other.apply([Move(task, source, 9, 0.5, "score")])
                found += look(self, ids, now)
            return found

        monkeypatch.setattr(Search, "in_front", seen_twice)
        (result,) = shop.operations.hold([self.ID])
        assert (result.messages, result.detail) == (1, "")


class TestAtWorkers:
    """What workers have is not pending: they are asked, and told to discard it."""

    @pytest.fixture
    def control(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
        """What workers answer, by node name, and the ids that they are told to discard."""
        found: dict[str, Any] = {"answers": {}, "revoked": []}
        monkeypatch.setattr(fates, "answers", lambda *_: (found["answers"], found["answers"]))
        monkeypatch.setattr(cancelling, "tell", lambda *_, task_id: found["revoked"].extend(task_id))
        connection = shop.app.connection_for_write()
        found["take"] = lambda: connection.channel().basic_get("celery")
        yield found
        connection.release()

    def taken(self, shop: Shop, control: dict[str, Any], **options: Any) -> str:
        task_id: str = shop.report.apply_async(("ada",), **options).id
        assert control["take"]() is not None
        return task_id

    def test_a_task_that_waits_for_its_time(self, make_shop: Callable[..., Shop], control: dict[str, Any]) -> None:
        shop = make_shop(timezone="Europe/Vienna")
        at = datetime(2099, 7, 1, 12, tzinfo=timezone.utc)
        task_id = self.taken(shop, control, eta=at)
        until = "until 2099-07-01 14:00:00 CEST"
        with pytest.raises(NotPendingError, match=f"scheduled at a worker {until}"):
            shop.operations.explain(task_id)
        control["answers"]["one@web"] = {task_id: ["scheduled", {}]}
        with pytest.raises(NotPendingError, match=f"scheduled at worker one@web {until}") as error:
            shop.operations.explain(task_id)
        assert (error.value.answer, error.value.detail) == ("scheduled", f"at worker one@web {until}")
        (result,) = shop.operations.hold([task_id])
        assert (result.answer, result.detail) == (Answer.SCHEDULED, f"at worker one@web {until}")
        assert shop.operations.pending(workers=Workers()).delivered == 1

    def test_it_is_revoked(self, shop: Shop, control: dict[str, Any]) -> None:
        far, near = (self.taken(shop, control, countdown=seconds) for seconds in (3600, 1))
        control["answers"]["one@web"] = {each: ["scheduled", {}] for each in (far, near)}
        done, perhaps = shop.operations.cancel([far, near], "withdrawn")
        assert control["revoked"] == [far, near]
        assert (done.answer, perhaps.answer) == (Answer.DONE, Answer.REVOKED)
        assert done.detail.startswith("it was scheduled at worker one@web until ")
        assert done.detail.endswith("; it will be discarded then")
        assert perhaps.detail.endswith("; it is discarded unless it has started already")
        assert [(each.op, each.answer, each.why) for each in shop.operations.log()] == [
            ("cancel", "revoked", "withdrawn"),
            ("cancel", "done", "withdrawn"),
        ]

    def test_without_an_answer_of_workers_it_is_not_said_to_be_done(self, shop: Shop, control: dict[str, Any]) -> None:
        ids = [self.taken(shop, control, countdown=3600), self.taken(shop, control), "nobody"]
        results = shop.operations.cancel(ids)
        assert control["revoked"] == [*ids[:2], "nobody"]
        assert answers(results) == [Answer.REVOKED] * 3
        assert results[1].detail == "it was reserved at a worker; it is discarded unless it has started already"
        assert results[2].detail == "nobody knows it: check the id; workers that are up discard it if it reaches them"

    def test_what_runs_is_not_terminated(self, shop: Shop, control: dict[str, Any]) -> None:
        active, started = self.taken(shop, control), self.taken(shop, control)
        control["answers"]["one@web"] = {active: ["active", {}]}
        shop.app.backend.store_result(started, None, "STARTED")
        results = shop.operations.cancel([active, started])
        assert [(each.answer, each.detail) for each in results] == [
            (Answer.RUNNING, "at worker one@web; it is not terminated"),
            (Answer.RUNNING, "it is not terminated"),
        ]
        assert control["revoked"] == []

    def test_one_message_is_pending_and_another_reserved(self, shop: Shop, control: dict[str, Any]) -> None:
        task_id = self.taken(shop, control, task_id="invoice-42")
        shop.report.apply_async(task_id=task_id)
        control["answers"]["one@web"] = {task_id: ["reserved", {}]}
        (result,) = shop.operations.cancel([task_id])
        assert (result.answer, control["revoked"]) == (Answer.DONE, [task_id])
        assert result.detail.startswith("another message with its id: revoked, it was reserved at worker one@web")


class TestAudit:
    def test_each_operation_is_kept(self, shop: Shop) -> None:
        task_id = shop.report.delay("ada").id
        shop.operations.hold([task_id], "why\nnot")
        shop.operations.cancel([task_id])
        shop.operations.bump(["nobody"], "typo")
        shop.operations.pause("upgrade")
        shop.operations.resume()
        shop.operations.drain(time.time())
        told = [(each.op, each.id, each.task, each.queue, each.answer, each.why) for each in shop.operations.log()]
        assert told[::-1] == [
            ("hold", task_id, "shop.report", "celery", "done", r"why\nnot"),
            ("cancel", task_id, "shop.report", "celery", "done", ""),
            ("bump", "nobody", "", "", "not found", "typo"),
            ("pause", "", "", "", "done", "upgrade"),
            ("resume", "", "", "", "done", ""),
            ("drain", "", "", "", "done", ""),
        ]
        assert {each.by for each in shop.operations.log()} == {"ada@ops"}
        assert time.time() - shop.operations.log()[0].at < 60
        assert [each.op for each in shop.operations.log(task_id=task_id)] == ["cancel", "hold"]
        assert len(shop.operations.log(2)) == 2

    def test_the_moves_of_reprioritizers_are_not_in_it(self, shop: Shop) -> None:
        shop.report.apply_async(priority=9)
        task_id = shop.checkout.delay().id
        shop.park(task_id, place=9)
        assert shop.reprioritizer().tick().moves
        assert shop.operations.log() == []

    def test_it_is_bounded_and_hostile_entries_are_passed_over(self, shop: Shop) -> None:
        redis = shop.client.redis
        for entry in (b"nonsense", b"[]", b"\xff", b'{"op": 3, "why": "\\u001b[2J"}'):
            redis.xadd("dynprio:audit", {"entry": entry})
        redis.xadd("dynprio:audit", {"other": "field"})
        (told,) = shop.operations.log()
        assert (told.op, told.why) == ("", r"\x1b[2J")
        pipe = redis.pipeline()
        for _ in range(12_000):
            pipe.xadd("dynprio:audit", {"entry": "{}"})
        pipe.execute()
        shop.operations.pause()
        assert 10_000 <= redis.xlen("dynprio:audit") < 10_200
        shop.operations.hold([shop.report.delay().id])
        assert 10_000 <= redis.xlen("dynprio:audit") < 10_200
        assert len(shop.operations.log()) < 10_200


class TestMethodsOfDynPrio:
    def test_they_are_the_same_operations(self, shop: Shop) -> None:
        one, two = shop.report.delay("ada").id, shop.report.delay("ada").id
        dynprio = shop.dynprio
        assert [turn.task.id for turn in dynprio.pending().turns] == [one, two]
        assert [turn.task.id for turn in dynprio.pending(Filter(key="bob")).turns] == []
        assert dynprio.bump(two, "now").answer is Answer.DONE
        assert dynprio.explain(two).turn.position == 1
        assert dynprio.reprioritize(one, weight=3, level=9).answer is Answer.DONE
        assert dynprio.hold(one).answer is Answer.DONE
        assert dynprio.release(one).answer is Answer.DONE
        assert shop.place(one) == 9
        assert dynprio.cancel(one).answer is Answer.DONE
        dynprio.pause("because")
        assert shop.operations.paused()
        dynprio.resume()
        assert not shop.operations.paused()
        with pytest.raises(ArgumentError, match="give weight, deadline, key or level"):
            dynprio.reprioritize(one)

    @pytest.mark.parametrize("limit", [1, 0, None])
    @pytest.mark.timeout(60)
    def test_they_need_no_connection_of_the_pool(self, shop: Shop, limit: int | None) -> None:
        shop.app.conf.broker_pool_limit = limit
        task_id = shop.report.delay("ada").id
        with shop.app.pool.acquire(block=True) if limit else nullcontext():  # somebody has the last one
            assert [turn.task.id for turn in shop.dynprio.pending().turns] == [task_id]
            assert shop.dynprio.explain(task_id).turn.position == 1
            assert answers(shop.operations.cancel([task_id, "nobody"])) == [Answer.DONE, Answer.REVOKED]

    def test_a_broker_that_is_away_is_an_error_of_ours(self) -> None:
        app = Celery("away", broker="redis://127.0.0.1:1/0", set_as_current=False)
        with pytest.raises(BrokerUnavailableError):
            DynPrio(app).hold(str(uuid4()))
        other = Celery("other", broker="memory://", set_as_current=False)
        with pytest.raises(DynPrioError, match="managed queues need Redis"):
            DynPrio(other).pending()
