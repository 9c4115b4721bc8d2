"""The replay: every task runs once, no slot idles beside work, and equal arguments give equal results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.lab.contenders import Production, contenders
from celery_dynprio.lab.disciplines import (
    Discipline,
    EarliestDeadline,
    FirstCome,
    RoundRobin,
    ShortestJob,
    StaticPriorities,
)
from celery_dynprio.lab.exact import ExactOrder, growth
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.lab.planned import Planned
from celery_dynprio.lab.record import Record
from celery_dynprio.lab.recording import Entry, FailedTry, Slots, Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Age, Deadline, FairShare, Gauge, Max, Min, Policy, ShortestFirst, Weight, factor
from celery_dynprio.producer.placement import Placement

POLICY: Final = 4 * Deadline(horizon=20) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=30) + 1 * ShortestFirst()
MIXED: Final = 1 * Max(Weight(), Deadline(5)) + 1 * Min(Age(9), FairShare())
#: Late tasks make room for others, which may be younger and otherwise alike.
LETS_GO: Final = 4 * Deadline(horizon=2, late=0) + 1 * ShortestFirst() + 1 * Age(saturation=30)
PRODUCTION: Final = Production()
CONTENDERS: Final = {each.name: each.make for each in contenders({"policy": POLICY}, PRODUCTION)}


class Middle(Placement):
    """A producer that knows nothing."""

    def priority(self, queue: str, task_id: str, name: str, header: Mapping[str, Any]) -> int:  # noqa: ARG002 - see the class
        return 5


few = settings(max_examples=25, deadline=None)


def times(most: float = 5.0) -> st.SearchStrategy[float]:
    return st.integers(0, int(most * 10)).map(lambda tenths: tenths / 10)


@st.composite
def recordings(draw: Callable[[Any], Any]) -> list[Task]:
    tries = st.lists(st.builds(FailedTry, times(2), times(3)), max_size=2).map(tuple)
    tasks = st.builds(
        Task,
        times(20),
        st.sampled_from(["a", "b"]),
        times(4),
        st.sampled_from([None, "x", "y", "z"]),
        st.sampled_from([0.0, 1.0, 5.0, 10.0]),
        st.none() | times(10),
        st.none() | times(3),
        pinned=st.none() | st.integers(0, 9),
        failed=tries,
    )
    return sorted(draw(st.lists(tasks, max_size=12)), key=lambda task: task.at)


class Watched:
    """Hands on to a discipline, and writes down what was taken and when."""

    def __init__(self, inner: Discipline) -> None:
        self.inner = inner
        self.takes: list[tuple[float, int]] = []
        self.moves, self.broker_seconds = 0, 0.0

    def __len__(self) -> int:
        return len(self.inner)

    def publish(self, job: Job, now: float) -> None:
        self.inner.publish(job, now)

    def take(self, now: float) -> Job | None:
        job = self.inner.take(now)
        if job is not None:
            self.takes.append((now, job.index))
        return job

    def give_back(self, job: Job) -> None:
        self.inner.give_back(job)

    def tick(self, now: float) -> None:
        self.inner.tick(now)

    def started(self, job: Job, now: float) -> None:
        self.inner.started(job, now)

    def ended(self, job: Job, seconds: float, now: float) -> None:
        self.inner.ended(job, seconds, now)


def columns(record: Record) -> list[Any]:
    return [list(record.at), list(record.wait), list(record.run), list(record.group), record.moves, record.idle]


@pytest.mark.parametrize("name", CONTENDERS)
@few
@given(recording=recordings(), workers=st.integers(1, 4), prefetch=st.integers(0, 2))
def test_every_try_of_every_task_runs_once_whoever_decides(
    name: str, recording: list[Task], workers: int, prefetch: int
) -> None:
    watched = Watched(CONTENDERS[name]())
    record = replay(recording, watched, Fleet(workers, 1, prefetch))
    assert sorted(record.at) == [task.at for task in recording]
    assert record.busy == pytest.approx(sum(task.work for task in recording))
    tries = sorted(index for index, task in enumerate(recording) for _ in range(1 + len(task.failed)))
    assert sorted(index for _, index in watched.takes) == tries
    assert all(wait >= 0 for wait in record.wait)
    assert record.unfinished == 0


@pytest.mark.parametrize("name", CONTENDERS)
@few
@given(recording=recordings(), workers=st.integers(1, 4))
def test_no_slot_idles_while_a_task_waits_unless_it_is_reserved(name: str, recording: list[Task], workers: int) -> None:
    assert replay(recording, CONTENDERS[name](), Fleet(workers)).idle == 0


@pytest.mark.parametrize("name", CONTENDERS)
@few
@given(recording=recordings())
def test_equal_arguments_give_equal_results(name: str, recording: list[Task]) -> None:
    first, second = (replay(recording, CONTENDERS[name](), Fleet(2, 1, 1)) for _ in range(2))
    assert columns(first) == columns(second)


@pytest.mark.parametrize("make", [FirstCome, StaticPriorities, RoundRobin, EarliestDeadline, CONTENDERS["policy"]])
@few
@given(starts=st.lists(times(20), max_size=12), workers=st.integers(1, 3))
def test_equal_tasks_run_in_the_order_of_arrival(
    make: Callable[[], Discipline], starts: list[float], workers: int
) -> None:
    watched = Watched(make())
    replay([Task(at, "a", 1.0) for at in sorted(starts)], watched, Fleet(workers))
    assert [index for _, index in watched.takes] == list(range(len(starts)))


class Brute(ExactOrder):
    """Scores all that waits at each start, whatever the policy."""

    def __init__(self, policy: Policy, learning: Learning) -> None:
        super().__init__(policy, learning)
        self._rate = None


@few
@given(
    recording=recordings(),
    workers=st.integers(1, 3),
    policy=st.sampled_from([POLICY, 1 * Age(saturation=5), MIXED, 1 * Weight(), LETS_GO]),
)
def test_exact_order_is_the_same_with_and_without_its_short_cuts(
    recording: list[Task], workers: int, policy: Policy
) -> None:
    quick, slow = Watched(ExactOrder(policy, Learning())), Watched(Brute(policy, Learning()))
    for watched in (quick, slow):
        replay(recording, watched, Fleet(workers))
    assert quick.takes == slow.takes


def test_a_factor_of_the_users_own_takes_no_short_cut() -> None:
    @factor
    def newest(task: PendingTask, context: Context) -> float:
        return max(1 - (context.now - task.published) / 100, 0.0)

    assert growth(1 * newest + 1 * Age()) is None
    assert growth(3 * Weight() + 1 * Age(saturation=10)) == pytest.approx(0.025)
    watched = Watched(ExactOrder(1 * newest, Learning()))
    replay([Task(0.1 * at, "a", 1.0) for at in range(4)], watched, Fleet(1))
    assert [index for _, index in watched.takes] == [0, 3, 2, 1]


def test_the_shortest_goes_first_where_run_times_are_known() -> None:
    watched = Watched(ShortestJob())
    replay([Task(0.0, "a", 5.0), Task(1.0, "a", 3.0), Task(2.0, "a", 1.0)], watched, Fleet(1))
    assert [index for _, index in watched.takes] == [0, 2, 1]


def test_keys_take_turns() -> None:
    watched = Watched(RoundRobin())
    replay([Task(0.0, "a", 1.0, key) for key in "xxxyz"], watched, Fleet(1))
    assert [index for _, index in watched.takes] == [0, 1, 3, 4, 2]  # the first one waited for nobody


def test_an_eta_and_a_pause_are_no_wait() -> None:
    record = replay([Task(10.0, "a", 2.0, eta=5.0, failed=(FailedTry(1.0, 30.0),))], FirstCome(), Fleet(1))
    assert columns(record)[:3] == [[10.0], [0.0], [3.0]]
    assert record.seconds == pytest.approx(5 + 1 + 30 + 2)


def test_what_is_late_is_late_at_its_first_start() -> None:
    recording = [Task(0.0, "a", 4.0), Task(1.0, "a", 1.0, deadline=2.0), Task(1.0, "a", 1.0, deadline=5.0)]
    record = replay(recording, FirstCome(), Fleet(1))
    assert list(record.late)[1:] == [1.0, -1.0]


def test_what_is_reserved_waits_for_its_worker_while_another_one_idles() -> None:
    recording = [Task(0.0, "a", 10.0), Task(0.0, "a", 1.0), Task(0.0, "a", 1.0), Task(0.0, "a", 1.0)]
    record = replay(recording, FirstCome(), Fleet(2, 1, 1))
    assert sorted(record.wait) == [0.0, 0.0, 1.0, 10.0]  # the third was reserved behind the first
    assert record.idle == pytest.approx(8.0)


def test_workers_of_the_trace_come_and_go_and_give_back_what_they_reserved() -> None:
    recording: list[Entry] = [
        Slots(0.0, "one", 1),
        *(Task(0.0, "a", 4.0) for _ in range(3)),
        Slots(1.0, "one", 0),
        Slots(2.0, "two", 2),
    ]
    record = replay(recording, CONTENDERS["policy"](), Fleet(None, prefetch=1))
    assert sorted(record.wait) == [0.0, 2.0, 2.0]
    assert record.offered == pytest.approx(1 * 1 + 2 * 4)


def test_tasks_that_no_worker_is_left_for_are_counted() -> None:
    recording: list[Entry] = [Slots(0.0, "one", 1), Task(0.0, "a", 1.0), Slots(0.5, "one", 0), Task(3.0, "a", 1.0)]
    record = replay(recording, CONTENDERS["policy"](), Fleet(None))
    assert (len(record), record.unfinished) == (1, 1)


def test_a_deep_front_is_parked_and_brought_back_best_first() -> None:
    recording = [Task(0.0, "a", 1.0, weight=float(number % 10)) for number in range(200)]
    planned = Planned(1 * Weight(), partial(Middle, 1 * Weight(), PRODUCTION.scale), Learning(), window=20)
    record = replay(recording, planned, Fleet(2))
    assert len(record) == 200
    waits = dict[float, list[float]]()
    for weight, wait in zip(record.weight, record.wait, strict=True):
        waits.setdefault(weight, []).append(wait)
    means = [sum(each) / len(each) for _, each in sorted(waits.items())]
    assert means == sorted(means, reverse=True)
    assert planned.broker_seconds == pytest.approx(planned.moves * 80e-6)


def test_a_smaller_budget_moves_less() -> None:
    recording = [Task(0.1 * number, "a", 1.0, weight=float(number % 10)) for number in range(200)]

    def moves(budget: float) -> int:
        planned = Planned(1 * Weight(), partial(Middle, 1 * Weight(), PRODUCTION.scale), Learning(), budget=budget)
        return replay(recording, planned, Fleet(2)).moves

    assert 0 < moves(80e-6) < moves(0.2)


def test_a_policy_that_fails_stops_nothing() -> None:
    @factor
    def broken(task: PendingTask, context: Context) -> float:
        raise ZeroDivisionError

    def no_number() -> float:
        raise OSError

    recording = [Task(0.1 * number, "a", 1.0) for number in range(20)]
    for make in (PRODUCTION.planned, PRODUCTION.exact):
        for policy in (1 * broken, 1 * Gauge(no_number)):
            assert len(replay(recording, make(policy), Fleet(1))) == 20


def test_what_ran_is_learned() -> None:
    recording = [Task(0.0, "long", 9.0), *(Task(10.0, name, 1.0) for name in ("long", "short", "long", "short"))]
    recording.insert(1, Task(0.0, "short", 0.1))
    watched = Watched(PRODUCTION.planned(1 * ShortestFirst(scale=5)))
    replay(recording, watched, Fleet(1), tick=0.5)
    assert [index for _, index in watched.takes][3:] == [3, 5, 4]
