"""One suite for every backlog: what the port promises holds for each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import pytest
from redis.exceptions import OutOfMemoryError

from celery_dynprio import message
from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.front import REACH
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.levels import AddedSteps
from celery_dynprio.message import HEADER
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move, Outcome, PendingTask, Place
from celery_dynprio.ports.broker import Backlog, Found
from celery_dynprio.ports.lease import Kind as LeaseKind
from celery_dynprio.tracing.runs import span_of_headers
from tests.apps import make_app
from tests.conftest import StartServer
from tests.servers import Database, Kind

NOW = 1_700_000_000.0


class Bench(Protocol):
    """A backlog with a producer, a worker and a lease around it."""

    @property
    def backlog(self) -> Backlog: ...

    def publish(self, task: PendingTask, level: Place) -> None:
        """Publish as Celery would."""

    def consume(self) -> str | None:
        """Take the next message as a worker would; return its task id."""

    def lead(self) -> str:
        """Become the leader; return the fence."""


class MemoryBench:
    def __init__(self) -> None:
        self.backlog = MemoryBacklog("celery")
        self._leads = 0

    def publish(self, task: PendingTask, level: Place) -> None:
        self.backlog.publish(task, level)

    def consume(self) -> str | None:
        task = self.backlog.consume()
        return None if task is None else task.id

    def lead(self) -> str:
        self._leads += 1
        self.backlog.fence = str(self._leads)
        return self.backlog.fence


class RedisBench:
    """Publishes and consumes with kombu itself."""

    def __init__(self, url: str, prefix: str) -> None:
        self.app = make_app(url, prefix=prefix)
        self.client = RedisClient.from_app(self.app)
        self.backlog = RedisBacklog(self.client, "celery")
        self._connection = self.app.connection_for_write()
        self._channel = self._connection.channel()
        self._leads = 0

    def publish(self, task: PendingTask, level: Place) -> None:
        header = {"at": task.published, "w": task.weight, "due": task.deadline, "key": task.key, "n": task.dependents}
        told = {field: value for field, value in header.items() if value is not None}
        self.app.send_task(task.name, task_id=task.id, priority=level, headers={HEADER: told})

    def consume(self) -> str | None:
        message = self._channel.basic_get("celery", no_ack=True)
        return None if message is None else str(message.headers["id"])

    def lead(self) -> str:
        self._leads += 1
        kinds: tuple[LeaseKind, ...] = ("embedded", "dedicated", "operator")  # each takes over from the one before
        fence = RedisLease(self.client, "celery", f"leader {self._leads}", kinds[self._leads - 1], ttl=600).acquire()
        assert fence is not None
        return fence

    def close(self) -> None:
        self._connection.release()
        self.client.close()
        self.app.close()


@pytest.fixture(params=["memory", "valkey", "redis", "redis62", "valkey with a key prefix"])
def bench(request: pytest.FixtureRequest, open_database: Callable[[Kind], Database]) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    kind, _, prefix = request.param.partition(" ")
    bench = RedisBench(open_database(kind).url, "shop:" if prefix else "")
    yield bench
    bench.close()


def task(**fields: object) -> PendingTask:
    values = {"id": str(uuid4()), "name": "shop.checkout", "published": NOW} | fields
    return PendingTask(**values)  # type: ignore[arg-type]


def test_reads_what_was_published_next_to_run_first(bench: Bench) -> None:
    first, second = task(weight=7.0, key="ada", deadline=NOW + 30, dependents=2), task()
    urgent = task(published=NOW + 1)
    for each, level in ((first, 5), (second, 5), (urgent, 0)):
        bench.publish(each, level)
    snapshot = bench.backlog.read(NOW)
    assert snapshot.levels[5] == (first, second)
    assert snapshot.levels[0] == (urgent,)
    assert list(snapshot.depths) == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert (snapshot.overflow_depth, snapshot.held_depth, snapshot.foreign) == (0, 0, {})


def test_a_moved_task_runs_from_its_new_level_behind_what_was_there(bench: Bench) -> None:
    there, promoted, last = task(), task(), task()
    bench.publish(there, 0)
    bench.publish(promoted, 6)
    bench.publish(last, 3)
    bench.backlog.read(NOW)
    assert bench.backlog.apply([Move(promoted, 6, 0, 1.0, "score")]) == [Outcome.MOVED]
    assert [bench.consume() for _ in range(4)] == [there.id, promoted.id, last.id, None]


def test_moves_are_made_in_the_order_given(bench: Bench) -> None:
    tasks = [task() for _ in range(250)]  # more than one call of the script
    for each in tasks:
        bench.publish(each, 9)
    bench.backlog.read(NOW)
    order = [*tasks[1::2], *tasks[::2]]
    assert set(bench.backlog.apply([Move(each, 9, 4, 0.5, "score") for each in order])) == {Outcome.MOVED}
    assert [bench.consume() for _ in tasks] == [each.id for each in order]


def test_a_task_that_was_delivered_is_gone_and_is_not_brought_back(bench: Bench) -> None:
    delivered, other = task(), task()
    bench.publish(delivered, 2)
    bench.publish(other, 2)
    bench.backlog.read(NOW)
    assert bench.consume() == delivered.id
    moves = [Move(delivered, 2, 0, 1.0, "score"), Move(other, 2, 1, 1.0, "score")]
    assert bench.backlog.apply(moves) == [Outcome.GONE, Outcome.MOVED]
    assert bench.backlog.apply(moves) == [Outcome.GONE, Outcome.GONE]
    assert [bench.consume(), bench.consume()] == [other.id, None]


@pytest.mark.parametrize("place", [OVERFLOW, HELD])
def test_a_parked_task_is_out_of_reach_until_it_comes_back(bench: Bench, place: Place) -> None:
    parked = task(weight=3.0, key="ada")
    bench.publish(parked, 1)
    bench.backlog.read(NOW)
    assert bench.backlog.apply([Move(parked, 1, place, 0.1, "overflow")]) == [Outcome.MOVED]
    assert bench.consume() is None
    assert bench.backlog.count()[place] == 1
    assert list(bench.backlog.parked(place, NOW)) == [parked]
    snapshot = bench.backlog.read(NOW)
    assert (snapshot.overflow_depth, snapshot.held_depth) == (int(place == OVERFLOW), int(place == HELD))
    assert dict(snapshot.overflow) == ({parked.id: parked} if place == OVERFLOW else {})
    assert bench.backlog.apply([Move(parked, place, 8, 0.9, "refill")]) == [Outcome.MOVED]
    assert bench.backlog.count() == {level: int(level == 8) for level in range(10)} | {
        OVERFLOW: 0,
        HELD: 0,
        CANCELLED: 0,
    }
    assert [bench.consume(), bench.consume()] == [parked.id, None]


def test_a_second_message_with_the_same_id_is_never_lost(bench: Bench) -> None:
    first = task()
    bench.publish(first, 4)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(first, 4, OVERFLOW, 0.0, "overflow")])
    bench.publish(first, 4)
    bench.publish(first, 4)
    assert bench.backlog.read(NOW).foreign == {} or bench.backlog.read(NOW).foreign == {"duplicate id": 1}
    assert bench.backlog.apply([Move(first, 4, OVERFLOW, 0.0, "overflow")]) == [Outcome.REFUSED]
    assert bench.backlog.apply([Move(first, OVERFLOW, 4, 0.0, "refill")]) == [Outcome.MOVED]
    assert [bench.consume() for _ in range(4)] == [first.id, first.id, first.id, None]


@pytest.mark.parametrize("place", [HELD, CANCELLED])
def test_further_messages_with_the_same_id_are_kept_beside_the_first(bench: Bench, place: Place) -> None:
    first = task()
    for count in range(1, 4):
        bench.publish(first, 4)
        bench.backlog.read(NOW)
        assert bench.backlog.apply([Move(first, 4, place, 0.0, "hold")]) == [Outcome.MOVED]
        assert bench.backlog.count()[place] == count
    kept = list(bench.backlog.parked(place, NOW))
    assert {each.id for each in kept} == {first.id}
    assert len({each.ref for each in kept}) == 3
    moves = [Move(each, place, 4, 0.0, "release") for each in kept]
    assert bench.backlog.apply(moves[1:]) == [Outcome.MOVED] * 2
    assert bench.backlog.apply(moves) == [Outcome.MOVED, Outcome.GONE, Outcome.GONE]
    assert [bench.consume() for _ in range(4)] == [first.id] * 3 + [None]


def test_an_id_that_looks_like_that_of_a_further_message_is_its_own(bench: Bench) -> None:
    first = task()
    odd = task(id=f"{first.id}\x06\x162")
    for each in (odd, first, first):
        bench.publish(each, 4)
        bench.backlog.read(NOW)
        assert bench.backlog.apply([Move(each, 4, HELD, 0.0, "hold")]) == [Outcome.MOVED]
    found = bench.backlog.find([first.id, odd.id], NOW)
    assert [len(found[each.id]) for each in (first, odd)] == [2, 1]
    moves = [Move(each.task, HELD, 4, 0.0, "release") for same in found.values() for each in same]
    assert bench.backlog.apply(moves) == [Outcome.MOVED] * 3


def test_only_the_newest_fence_moves(bench: Bench) -> None:
    waiting = task()
    bench.publish(waiting, 7)
    stale, newest = bench.lead(), bench.lead()
    bench.backlog.read(NOW)
    move = Move(waiting, 7, 0, 1.0, "score")
    with pytest.raises(LeaseLostError, match=r"'celery'.*nothing was moved"):
        bench.backlog.apply([move], stale)
    with pytest.raises(LeaseLostError):
        bench.backlog.spill(1, NOW, stale)
    assert bench.backlog.count()[7] == 1
    assert bench.backlog.apply([move], newest) == [Outcome.MOVED]


def test_a_snapshot_stays_as_it_was_read(bench: Bench) -> None:
    """Whatever is moved, parked or taken later, also by itself and by what is read next."""
    first, second, third = (task() for _ in range(3))
    for each in (first, second, third):
        bench.publish(each, 4)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(first, 4, OVERFLOW, 0.1, "overflow")])
    early = bench.backlog.read(NOW)
    bench.backlog.apply([Move(second, 4, OVERFLOW, 0.1, "overflow"), Move(first, OVERFLOW, 0, 0.9, "refill")])
    late = bench.backlog.read(NOW)
    bench.backlog.close()
    assert bench.backlog.spill(1, NOW) == 1
    bench.backlog.read(NOW)
    assert (dict(early.overflow), early.levels[4]) == ({first.id: first}, (second, third))
    assert (dict(late.overflow), late.levels[4], late.levels[0]) == ({second.id: second}, (third,), (first,))
    assert (early.depths[4], late.depths[4]) == (2, 1)
    with pytest.raises(TypeError):
        late.overflow[first.id] = first  # type: ignore[index]


def test_spill_parks_the_newest_of_the_last_levels_first(bench: Bench) -> None:
    low, high = [task() for _ in range(5)], [task() for _ in range(5)]
    for each in low:
        bench.publish(each, 8)
    for each in high:
        bench.publish(each, 2)
    assert bench.backlog.spill(7, NOW) == 7
    kept = bench.backlog.read(NOW)
    assert kept.levels[2] == tuple(high[:3])
    assert set(kept.overflow) == {each.id for each in low + high[3:]}
    assert bench.backlog.spill(100, NOW) == 3
    assert bench.consume() is None


def test_counts_every_place_and_costs_nothing_below_zero(bench: Bench) -> None:
    for level in (0, 0, 9):
        bench.publish(task(), level)
    assert bench.backlog.count() == {
        place: {0: 2, 9: 1}.get(place, 0) for place in (*range(10), OVERFLOW, HELD, CANCELLED)
    }
    bench.backlog.read(NOW)
    for source in (0, OVERFLOW):
        assert 0 <= bench.backlog.cost(Move(task(), source, 9, 0.5, "score")) < 0.01
    bench.backlog.close()


def test_tasks_are_found_by_their_ids_with_how_many_run_before_them(bench: Bench) -> None:
    first, second, held, missing = task(), task(), task(), task()
    for each, level in ((second, 5), (first, 2), (held, 3)):
        bench.publish(each, level)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(held, 3, HELD, 0.0, "hold")])
    found = bench.backlog.find([each.id for each in (first, second, held, missing)], NOW)
    assert {task_id: list(each) for task_id, each in found.items()} == {
        first.id: [Found(first, 2, 0)],
        second.id: [Found(second, 5, 1)],
        held.id: [Found(held, HELD, 0)],
    }
    assert bench.backlog.find([], NOW) == {}


def test_what_was_found_can_be_moved_without_having_been_read(bench: Bench) -> None:
    waiting = task()
    bench.publish(waiting, 6)
    ((found,),) = bench.backlog.find([waiting.id], NOW).values()
    assert bench.backlog.apply([Move(found.task, found.place, 0, 0.0, "bump", first=True)]) == [Outcome.MOVED]
    assert bench.consume() == waiting.id


def test_a_bumped_task_runs_before_all_others_of_its_level(bench: Bench) -> None:
    there, bumped = task(), task()
    bench.publish(there, 0)
    bench.publish(bumped, 0)
    bench.backlog.read(NOW)
    assert bench.backlog.apply([Move(bumped, 0, 0, 0.0, "bump", first=True)]) == [Outcome.MOVED]
    assert [bench.consume(), bench.consume()] == [bumped.id, there.id]


@pytest.mark.parametrize("place", [4, HELD, OVERFLOW])
def test_a_task_is_changed_where_it_is(bench: Bench, place: Place) -> None:
    waiting = task(weight=2.0, key="ada")
    bench.publish(waiting, 4)
    bench.backlog.read(NOW)
    if place != 4:
        bench.backlog.apply([Move(waiting, 4, place, 0.0, "hold")])
    change = Move(waiting, place, place, 0.0, "reprioritize", changes={"w": 9.0, "key": None})
    assert bench.backlog.apply([change]) == [Outcome.MOVED]
    ((found,),) = bench.backlog.find([waiting.id], NOW).values()
    assert (found.task, found.place) == (replace(waiting, weight=9.0, key=None), place)


def test_ids_are_completed_from_their_beginning(bench: Bench) -> None:
    front, held, overflow, other = (task(id=each) for each in ("ab-1", "ab-2", "ab-3", "b-ab"))
    for each in (front, held, overflow, other):
        bench.publish(each, 1)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(held, 1, HELD, 0.0, "hold"), Move(overflow, 1, OVERFLOW, 0.0, "overflow")])
    assert bench.backlog.ids_with("ab", NOW) == {"ab-1", "ab-2", "ab-3"}
    assert bench.backlog.ids_with("x", NOW) == set()


def test_a_scan_shows_each_task_with_its_place(bench: Bench) -> None:
    first, last, low, held, overflow = (task() for _ in range(5))
    for each, level in ((first, 0), (last, 0), (low, 9), (held, 5), (overflow, 5)):
        bench.publish(each, level)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(held, 5, HELD, 0.0, "hold"), Move(overflow, 5, OVERFLOW, 0.0, "overflow")])
    scan = bench.backlog.scan(NOW)
    assert [(place, each) for place, each, _ in scan] == [
        (0, last),
        (0, first),
        (9, low),
        (HELD, held),
        (OVERFLOW, overflow),
    ]
    assert (scan.look, scan.missed, scan.foreign) == (1, 0, {})


def test_parked_tasks_come_with_their_messages_and_can_be_discarded(bench: Bench) -> None:
    parked = task()
    bench.publish(parked, 1)
    bench.backlog.read(NOW)
    bench.backlog.apply([Move(parked, 1, HELD, 0.0, "hold")])
    ((found, raw),) = bench.backlog.parked_messages(HELD, NOW)
    assert found == parked
    assert bench.backlog.message(parked.ref, HELD) in {raw, None}  # in memory there are no messages
    assert bench.backlog.message("nobody", HELD) is None
    assert list(bench.backlog.parked_messages(OVERFLOW, NOW)) == []
    assert not bench.backlog.discard(parked.ref, OVERFLOW)
    assert bench.backlog.discard(parked.ref, HELD)
    assert not bench.backlog.discard(parked.ref, HELD)
    assert bench.backlog.count()[HELD] == 0


def test_a_cancelled_task_is_found_by_who_tells_its_end_only(bench: Bench) -> None:
    cancelled, waiting = task(), task()
    for each in (cancelled, waiting):
        bench.publish(each, 4)
    bench.backlog.read(NOW)
    assert bench.backlog.apply([Move(cancelled, 4, CANCELLED, 0.0, "cancel")]) == [Outcome.MOVED]
    assert bench.backlog.cancelled([cancelled.id, waiting.id]) == [cancelled.id]
    assert set(bench.backlog.cancelled_messages(cancelled.id)) == {cancelled.ref}
    assert bench.backlog.cancelled_messages(waiting.id) == {}
    assert set(bench.backlog.find([cancelled.id, waiting.id], NOW)) == {waiting.id}
    assert bench.backlog.read(NOW).cancelled_depth == 1
    assert bench.backlog.discard(cancelled.ref, CANCELLED)
    assert bench.backlog.cancelled([cancelled.id]) == []


def test_all_messages_of_a_task_that_was_cancelled_twice_are_found(bench: Bench) -> None:
    twin = task()
    for _ in range(2):
        bench.publish(twin, 4)
        bench.backlog.read(NOW)
        bench.backlog.apply([Move(twin, 4, CANCELLED, 0.0, "cancel")])
    assert len(bench.backlog.cancelled_messages(twin.id, 2)) == 2


def test_every_move_is_counted_and_what_was_not_made_is_not(bench: Bench) -> None:
    waiting, spilled = task(), task()
    bench.publish(waiting, 4)
    bench.publish(spilled, 9)
    bench.backlog.read(NOW)
    before = bench.backlog.moves()
    move = Move(waiting, 4, 2, 0.5, "score")
    assert bench.backlog.apply([move, move]) == [Outcome.MOVED, Outcome.GONE]
    assert bench.backlog.moves() == before + 1
    assert bench.backlog.spill(1, NOW) == 1
    assert bench.backlog.moves() == before + 2


class TestRedisOnly:
    """What only a broker with messages can show."""

    @pytest.fixture
    def bench(self, server: Database) -> Iterator[RedisBench]:
        bench = RedisBench(server.url, prefix="")
        yield bench
        bench.close()

    def test_only_the_priority_of_a_moved_message_changes_and_it_remembers_the_move(self, bench: RedisBench) -> None:
        bench.publish(task(), 5)
        (before,) = bench.client.redis.lrange(bench.client.level_key("celery", 5), 0, -1)
        (waiting,) = bench.backlog.read(NOW).levels[5]
        bench.backlog.apply([Move(waiting, 5, 1, 0.9, "score")])
        (after,) = bench.client.redis.lrange(bench.client.level_key("celery", 1), 0, -1)
        moved = json.loads(after)
        ((at, *move),) = moved["headers"]["dynprio"].pop("mv")
        assert json.dumps(moved).encode() == before.replace(b'"priority": 5', b'"priority": 1')
        assert move == [5, 1, 0.9, "score"]
        assert abs(time.time() - at) < 60

    def test_a_message_remembers_its_first_move_and_the_last(self, bench: RedisBench) -> None:
        bench.publish(task(), 0)
        for n in range(20):
            (waiting,) = bench.backlog.read(NOW).levels[n % 10]
            bench.backlog.apply([Move(waiting, n % 10, (n + 1) % 10, n / 100, "score")])
        (raw,) = bench.client.redis.lrange(bench.client.level_key("celery", 0), 0, -1)
        remembered = message.moves_of(json.loads(raw)["headers"]["dynprio"])
        assert [moved.score for moved in remembered] == [0.0, *(n / 100 for n in range(13, 20))]

    def test_a_message_without_our_header_keeps_the_age_it_was_first_seen_with(self, bench: RedisBench) -> None:
        bench.app.send_task("other.task")
        (seen,) = bench.backlog.read(NOW).levels[0]
        assert (seen.published, seen.pinned) == (NOW, None)
        bench.backlog.apply([Move(seen, 0, 6, 0.1, "score")])
        (again,) = RedisBacklog(bench.client, "celery").read(NOW + 100).levels[6]
        assert again == seen

    def test_an_explicit_priority_without_our_header_pins(self, bench: RedisBench) -> None:
        bench.app.send_task("other.task", priority=3)
        (seen,) = bench.backlog.read(NOW).levels[3]
        assert seen.pinned == 3
        bench.backlog.apply([Move(seen, 3, OVERFLOW, 0.0, "overflow")])
        bench.backlog.apply([Move(seen, OVERFLOW, 3, 0.0, "refill")])
        (again,) = RedisBacklog(bench.client, "celery").read(NOW + 100).levels[3]
        assert again == seen

    def test_a_message_restored_by_kombu_returns_to_its_level(self, bench: RedisBench) -> None:
        waiting = task()
        bench.publish(waiting, 7)
        bench.backlog.read(NOW)
        bench.backlog.apply([Move(waiting, 7, 2, 0.9, "score")])
        with bench.app.connection_for_read() as connection:
            channel = connection.channel()
            channel.basic_get("celery")  # delivered, never acknowledged
            channel.close()  # kombu restores what is unacknowledged
        assert bench.backlog.count()[2] == 1

    def test_a_new_leader_finds_what_the_last_one_parked(self, bench: RedisBench) -> None:
        tasks = [task(weight=float(n % 11)) for n in range(500)]
        for each in tasks:
            bench.publish(each, 5)
        bench.backlog.spill(500, NOW)
        successor = RedisBacklog(bench.client, "celery", window=20)  # reads about 40 parked tasks a time
        sizes = [len(successor.read(NOW).overflow) for _ in range(20)]
        assert sizes == sorted(sizes)
        assert 40 <= sizes[0] < 500
        assert dict(successor.read(NOW).overflow) == {each.id: each for each in tasks}

    def test_the_front_is_read_only_as_far_as_two_windows(self, bench: RedisBench) -> None:
        tasks = [task() for _ in range(30)]
        for each in tasks:
            bench.publish(each, 5)
        snapshot = RedisBacklog(bench.client, "celery", window=10).read(NOW)
        assert snapshot.levels[5] == tuple(tasks[:20])
        assert snapshot.depths[5] == 30

    def test_a_restarted_server_gets_the_scripts_again(self, bench: RedisBench) -> None:
        waiting = task()
        bench.publish(waiting, 7)
        bench.backlog.read(NOW)
        bench.client.redis.script_flush()
        assert bench.backlog.apply([Move(waiting, 7, 2, 0.9, "score")]) == [Outcome.MOVED]

    def test_an_error_half_way_loses_nothing(self, bench: RedisBench) -> None:
        waiting = task()
        bench.publish(waiting, 7)
        bench.backlog.read(NOW)
        bench.client.redis.set(bench.client.level_key("celery", 2), "not a list")
        with pytest.raises(Exception, match="WRONGTYPE"):
            bench.backlog.apply([Move(waiting, 7, 2, 0.9, "score")])
        bench.client.redis.delete(bench.client.level_key("celery", 2))
        assert bench.backlog.count()[7] == 1

    def test_other_priority_steps_are_other_levels(self, server: Database) -> None:
        app = make_app(server.url, steps=[0, 3, 6, 9], sep="|")
        client = RedisClient.from_app(app)
        app.send_task("a.task", priority=6, headers={HEADER: {"at": NOW}})
        backlog = RedisBacklog(client, "celery")
        (waiting,) = backlog.read(NOW).levels[2]
        backlog.apply([Move(waiting, 2, 3, 0.1, "score")])
        (raw,) = client.redis.lrange("celery|9", 0, -1)
        assert json.loads(raw)["properties"]["priority"] == 9
        client.close()
        app.close()

    def test_a_message_in_a_level_of_ours_is_given_back_to_a_level_of_all_workers(self, server: Database) -> None:
        app = make_app(server.url, steps=AddedSteps(range(10)))
        client = RedisClient.from_app(app)
        app.send_task("a.task", priority=0, headers={HEADER: {"at": NOW}})
        backlog = RedisBacklog(client, "celery")
        (waiting,) = backlog.read(NOW).levels[0]
        backlog.apply([Move(waiting, 0, 5, 0.5, "score")])
        with app.connection_for_write() as connection, connection.channel() as channel:
            taken = channel.basic_get("celery")
            assert taken is not None
            assert taken.properties["priority"] == 3
            span = span_of_headers(taken.headers, taken.properties, scale=client.scale)
            assert span.level == 5, "where it was taken from"
            channel.basic_reject(taken.delivery_tag, requeue=True)  # as a worker that stops
        assert [level for level, depth in backlog.count().items() if depth] == [3]
        client.close()
        app.close()

    def test_what_is_gone_from_a_long_list_is_not_searched_through_all_of_it(self, bench: RedisBench) -> None:
        key = bench.client.level_key("celery", 5)
        tasks = [task() for _ in range(10)]
        for each in tasks:
            bench.publish(each, 5)
        for _ in range(20):
            bench.client.redis.lpush(key, *(b"foreign %d" % number for number in range(1000)))
        bench.backlog.read(NOW)
        assert bench.consume() == tasks[0].id
        bench.client.redis.config_resetstat()
        moves = [Move(each, 5, 2, 0.9, "score") for each in tasks[:2]]
        assert bench.backlog.apply(moves) == [Outcome.GONE, Outcome.MOVED]
        assert (
            bench.client.redis.info("commandstats")["cmdstat_lrem"]["calls"] == 1
        )  # the second; the first only by LPOS

    def test_a_list_of_great_depth_is_read_from_its_end_only(self, bench: RedisBench) -> None:
        key = bench.client.level_key("celery", 5)
        for start in range(0, 15_000, 1000):
            bench.client.redis.lpush(key, *(b"foreign %d" % number for number in range(start, start + 1000)))
        assert sum(bench.backlog.read(NOW).foreign.values()) == REACH

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_moves_go_on_at_maxmemory(self, start_server: StartServer, kind: Kind) -> None:
        own = start_server(kind)
        bench = RedisBench(own.url(), prefix="")
        tasks = [task() for _ in range(300)]
        for each in tasks:
            bench.publish(each, 5)
        fence = bench.lead()
        bench.backlog.spill(300, NOW, fence)
        redis = bench.client.redis
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        with pytest.raises(OutOfMemoryError):
            redis.set("anything", "more")
        assert len(bench.backlog.read(NOW).overflow) == 300
        moves = [Move(each, OVERFLOW, 3, 0.5, "refill") for each in tasks]
        assert bench.backlog.apply(moves, fence) == [Outcome.MOVED] * 300
        bench.lead()  # a new leader may also begin
        bench.close()
