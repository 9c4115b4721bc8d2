"""Fair share: what a key is charged, the order that follows, and how far served work is from each key's share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.errors import PolicyError
from celery_dynprio.lab.disciplines import Discipline
from celery_dynprio.lab.exact import ExactOrder
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.lab.planned import Planned
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.levels import Scale
from celery_dynprio.models import Context, PendingTask, Run, RunningTask
from celery_dynprio.policies import Age, FairShare, Max, Policy, ShortestFirst, Weight, factor
from celery_dynprio.policies.ahead import Ahead, Alone, bind_known, with_pending
from celery_dynprio.policies.charges import CAUTIOUS, Charges, charged
from celery_dynprio.policies.shares import Shares
from celery_dynprio.producer.placement import Placement
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.testing import pending_task, ranked

NOW: Final = 1_000_000.0
LEVELS: Final = Scale(tuple(range(10)), tuple(range(10)))
RUNS: Final = {"short": 1.0, "middle": 3.0, "long": 10.0}


def known(use: Mapping[str, float], **others: Any) -> Context:
    return Context(NOW, Runtimes(RUNS), use, **others)


def of(key: str | None, name: str = "short", **options: Any) -> PendingTask:
    return replace(pending_task(name, key=key, now=NOW), **options)


class TestFairShare:
    @pytest.mark.parametrize(
        ("key", "value"), [("ada", 180 / (180 + 300)), ("bob", 180 / (180 + 60)), ("new", 1.0), (None, 1.0)]
    )
    def test_by_what_a_key_used(self, key: str | None, value: float) -> None:
        assert FairShare()(of(key), known({"ada": 300.0, "bob": 60.0})) == pytest.approx(value)

    def test_what_runs_and_what_goes_before_it_count_like_what_was_used(self) -> None:
        used = FairShare()(of("ada"), known({"ada": 60.0, "bob": 40.0}))
        runs = FairShare()(of("ada"), known({"ada": 20.0, "bob": 40.0}, running={"ada": 40.0}))
        assert used == runs == 50 / 110
        waits = FairShare()(of("ada"), known({"ada": 20.0, "bob": 80.0}, ahead=lambda _: 40.0))
        assert waits == used

    def test_of_tasks_without_a_key_all_count_as_one(self) -> None:
        assert FairShare()(of(None), known({"": 10.0, "ada": 10.0})) == 0.5

    @pytest.mark.parametrize("use", [{}, {"ada": 500.0}])
    def test_nobody_is_ahead_while_no_second_key_is_known(self, use: dict[str, float]) -> None:
        assert FairShare()(of("ada"), known(use)) == 0.5

    def test_exact_shares_are_all_in_the_middle(self) -> None:
        fair = FairShare(shares={"gold": 4, "iron": 0.5})
        use = {"gold": 400.0, "iron": 50.0, "ada": 100.0}
        assert [fair(of(key), known(use)) for key in use] == pytest.approx([0.5] * 3)

    def test_a_share_may_come_from_a_function_and_an_operators_counts_before_it(self) -> None:
        fair = FairShare(lambda key: 4 if key == "gold" else None)
        use = {"gold": 400.0, "ada": 100.0}
        assert fair(of("gold"), known(use)) == fair(of("ada"), known(use)) == 0.5
        assert fair(of("gold"), known(use, shares={"gold": 1.0})) < 0.5

    @pytest.mark.parametrize("share", [0, -1, math.nan, math.inf, True, "much"])
    def test_a_wrong_share_is_named(self, share: Any) -> None:
        with pytest.raises(PolicyError, match="use a finite number above 0"):
            FairShare(shares={"gold": share})
        with pytest.raises(PolicyError, match=r"share .* of key 'gold'"):
            FairShare(lambda key: share if key == "gold" else None)(of("gold"), known({"gold": 1.0, "ada": 1.0}))

    def test_wrong_options_are_named(self) -> None:
        with pytest.raises(PolicyError, match="shares=7"):
            FairShare(shares=7)  # type: ignore[arg-type]
        with pytest.raises(PolicyError, match="separator=''"):
            FairShare(separator="")

    def test_it_is_written_as_it_was_made(self) -> None:
        assert repr(FairShare()) == "FairShare()"
        assert repr(FairShare(shares={"gold": 4}, separator="/")) == "FairShare(shares={'gold': 4}, separator='/')"

    @given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1e-3, 1e3))
    def test_more_is_never_ahead_of_less(self, ada: float, bob: float, ahead: float, share: float) -> None:
        score = FairShare(shares={"bob": share}).bind(
            known({"ada": ada, "eve": 1.0}, running={"bob": bob}, ahead=lambda _: ahead)
        )
        less, more = sorted([("ada", ada + ahead), ("bob", (bob + ahead) / share)], key=lambda pair: pair[1])
        assert 0 <= score(of(more[0])) <= score(of(less[0])) + 1e-12
        assert score(of(less[0])) <= 1


class TestPaths:
    def test_shares_are_those_among_siblings(self) -> None:
        share = Shares(None, {"a": 3.0, "a/x": 2.0}, ["a/x", "a/y", "b/z"], "/")
        assert [share(key) for key in ("a/x", "a/y", "b/z")] == pytest.approx([3 * 1 / 2, 3 * 1 / 4, 3 / 4])

    def test_one_that_is_not_there_yet_counts_as_if_it_were(self) -> None:
        share = Shares(None, {}, ["a/x", "b/z"], "/")
        assert share("a/y") == pytest.approx(2 * 1 / 2 * 1 / 2)
        assert share("c") == pytest.approx(2 * 1 / 3)

    def test_a_path_stands_beside_what_is_in_it(self) -> None:
        share = Shares(None, {}, ["a", "a/x", "b"], "/")
        assert [share(key) for key in ("a", "a/x", "b")] == pytest.approx([3 / 4, 3 / 4, 3 / 2])

    @given(st.sets(st.text("ab/", max_size=5), min_size=1, max_size=8))
    def test_all_shares_together_are_as_many_as_there_are_keys(self, keys: set[str]) -> None:
        share = Shares(None, {"a": 3.0, "a/b": 0.5}, keys, "/")
        assert sum(map(share, keys)) == pytest.approx(len(keys))

    def test_without_a_separator_a_slash_means_nothing(self) -> None:
        use = {"a/x": 10.0, "a/y": 10.0, "b": 10.0}
        assert FairShare()(of("b"), known(use)) == 0.5
        assert FairShare(separator="/")(of("b"), known(use)) > 0.5


class TestCharges:
    def test_a_task_is_charged_what_it_is_expected_to_take(self) -> None:
        seconds = Charges(known({"ada": 500.0}))
        assert [seconds(of("ada", name)) for name in RUNS] == list(RUNS.values())

    def test_a_key_of_which_nothing_is_known_is_charged_with_caution(self) -> None:
        assert Charges(known({"ada": 4.0}))(of("new")) == CAUTIOUS
        assert Charges(known({"ada": 500.0, "bob": 100.0}))(of("new")) == 300.0
        assert Charges(Context(NOW))(of("new")) == CAUTIOUS

    def test_a_run_is_charged_at_least_as_long_as_it_has_taken(self) -> None:
        running = [RunningTask("1", "short", "ada", NOW - 0.1), RunningTask("2", "short", "ada", NOW - 50)]
        assert charged(running, known({"ada": 4.0})) == {"ada": pytest.approx(51.0)}
        assert charged([RunningTask("1", "long", "ada", NOW + 5)], known({"ada": 4.0})) == {"ada": 10.0}


class TestAhead:
    def test_within_a_key_the_more_urgent_is_not_charged_for_the_less_urgent(self) -> None:
        tasks = [of("ada", "short", weight=weight, published=NOW - age) for weight, age in [(1, 9), (5, 2), (5, 3)]]
        context = with_pending(known({"ada": 4.0, "bob": 4.0}), tasks, 1 * Weight())
        assert [context.ahead(task) for task in tasks] == [2.0, 1.0, 0.0]

    def test_keys_do_not_count_for_each_other(self) -> None:
        tasks = [of(key, "long") for key in ("ada", "bob", None)]
        context = with_pending(known({"ada": 4.0, "bob": 4.0, "": 1.0}), tasks, 1 * Weight())
        assert [context.ahead(task) for task in tasks] == [0.0] * 3
        assert set(context.pending_keys) == {"ada", "bob", ""}

    def test_one_that_is_not_among_them_comes_last_of_its_key(self) -> None:
        context = with_pending(known({"ada": 4.0}), [of("ada"), of("ada", "long")], 1 * Weight())
        assert (context.ahead(of("ada")), context.ahead(of("bob"))) == (11.0, 0.0)

    def test_a_policy_that_fails_charges_in_the_order_of_publishing(self) -> None:
        @factor
        def broken(_: PendingTask, __: Context) -> float:
            raise RuntimeError("no idea")

        tasks = [of("ada", published=NOW - age) for age in (1, 3, 2)]
        context = with_pending(known({"ada": 4.0}), tasks, 1 * broken)
        assert [context.ahead(task) for task in tasks] == [2.0, 0.0, 1.0]

    @given(
        st.lists(st.builds(of, st.sampled_from([None, "ada", "bob"]), st.sampled_from([*RUNS]), weight=st.floats(0, 9)))
    )
    def test_fair_share_never_changes_the_order_within_a_key(self, tasks: list[PendingTask]) -> None:
        rest = 2 * Weight() + 1 * ShortestFirst()
        context = known({"ada": 4.0, "bob": 90.0, "": 1.0})
        policies = rest + 3 * FairShare(), rest + 3 * Max(FairShare(), Weight())
        for policy in policies:
            alone, score = policy.bind(context), policy.bind(with_pending(context, tasks, policy))
            for one, two in permutations(tasks, 2):
                if one.key == two.key and alone(one) > alone(two):
                    assert score(one) > score(two) - 1e-12

    @given(
        st.lists(
            st.builds(of, st.sampled_from([None, "ada", "bob"]), st.sampled_from([*RUNS]), weight=st.floats(0, 10))
        )
    )
    def test_what_was_asked_to_sort_the_tasks_need_not_be_asked_again(self, tasks: list[PendingTask]) -> None:
        @factor
        def short_queue(task: PendingTask, known: Context) -> float:
            return 1 / (1 + known.ahead(task))

        policy = 2 * Weight() + 3 * FairShare() + 1 * Age() + 1 * Max(FairShare(), Weight()) + 2 * short_queue
        context = with_pending(known({"ada": 4.0, "bob": 90.0}), tasks, policy)
        score, again = policy.bind(context), bind_known(policy, context)
        assert [again(task) for task in tasks] == pytest.approx([score(task) for task in tasks])
        assert all(again(task) <= 1 for task in tasks)

    def test_what_runs_next_comes_out_the_same_when_it_runs(self) -> None:
        """The sum of what was used, what runs, and what goes before is the same before and after a start."""
        tasks = [of("ada", "long", published=NOW - age) for age in (3, 2, 1)]
        before = known({"ada": 4.0, "bob": 4.0})
        after = replace(before, running=charged([RunningTask("1", "long", "ada", NOW)], before))
        alone = Alone(1 * Age(), before)
        ahead = [Ahead(left, alone, Charges(before)) for left in (tasks, tasks[1:])]
        had = [context.use["ada"] + context.running.get("ada", 0.0) for context in (before, after)]
        assert had[0] + ahead[0](tasks[2]) == had[1] + ahead[1](tasks[2])


def test_the_flood_of_an_unknown_tenant_waits_until_its_first_task_has_ended() -> None:
    acme = [of("acme", "short", published=NOW - 2 + n / 100) for n in range(40)]
    newco = [of("newco", "short", published=NOW - 4 + n / 100) for n in range(60)]
    policy = 3 * FairShare() + 2 * Weight() + 1 * Age(saturation=300)
    order = ranked(policy, [*acme, *newco], now=NOW, runtimes={"short": 0.1}, use={"acme": 1.2, "bolt": 1.2})
    assert order == [newco[0], *acme, *newco[1:]]


class _Book:
    """Hands on to a discipline, and keeps the books of what each key was given, while tasks of all keys wait."""

    moves, broker_seconds = 0, 0.0

    def __init__(self, inner: Discipline, tasks: Sequence[Task], had: Mapping[str, float]) -> None:
        self.inner = inner
        self.waiting = {key: sum(task.key == key for task in tasks) for key in had}
        self.books = [dict(had)]
        self.tasks, self.published = len(tasks), 0

    def __len__(self) -> int:
        return len(self.inner)

    def publish(self, job: Job, now: float) -> None:
        self.published += 1
        self.inner.publish(job, now)

    def take(self, now: float) -> Job | None:
        job = self.inner.take(now)
        if job is not None and all(self.waiting.values()):
            key = job.task.key or ""
            self.waiting[key] -= 1
            books = {**self.books[-1], key: self.books[-1][key] + job.run}
            self.books = [*(self.books if self.published == self.tasks else ()), books]
        return job

    def give_back(self, job: Job) -> None:
        self.inner.give_back(job)

    def tick(self, now: float) -> None:
        self.inner.tick(now)

    def started(self, job: Job, now: float) -> None:
        self.inner.started(job, now)

    def ended(self, job: Job, seconds: float, now: float) -> None:
        self.inner.ended(job, seconds, now)


def learned(keys: Sequence[str]) -> Learning:
    """Each key ran each kind of task once; nothing is forgotten."""
    learning = Learning(half_life=1e12)
    learning.usage.add([Run(name, key, seconds) for key in keys for name, seconds in RUNS.items()])
    return learning


def flood(keys: Sequence[str], names: Sequence[str]) -> list[Task]:
    """All at once, key after key."""
    return [Task(0.0, name, RUNS[name], key) for key in keys for name in names]


@settings(max_examples=50, deadline=None)
@given(
    shares=st.lists(st.floats(0.2, 5), min_size=2, max_size=4),
    names=st.lists(st.sampled_from([*RUNS]), min_size=5, max_size=40),
    workers=st.integers(1, 5),
)
def test_in_exact_order_no_key_gets_further_ahead_of_another_than_its_longest_task(
    shares: list[float], names: list[str], workers: int
) -> None:
    """While both wait: what one was given over its share exceeds the other's by one task of it at most."""
    share = {f"key {index}": value for index, value in enumerate(shares)}
    had = dict.fromkeys(share, sum(RUNS.values()))
    tasks = flood([*share], names)
    book = _Book(ExactOrder(1 * FairShare(shares=share), learned([*share])), tasks, had)
    replay(tasks, book, Fleet(workers))
    first = {key: given / share[key] for key, given in book.books[0].items()}
    for books in book.books:
        for one, two in permutations(share, 2):
            ahead = books[one] / share[one] - books[two] / share[two]
            assert ahead <= max(first[one] - first[two], max(RUNS.values()) / share[one]) + 1e-6


def test_with_levels_floods_of_all_sizes_are_served_by_their_shares() -> None:
    """Four keys flood one after the other; while all wait, each gets its share within what a band and a tick span."""
    share = {"iron": 1.0, "tin": 1.0, "silver": 2.0, "gold": 4.0}
    policy: Policy = 1 * FairShare(shares=share)
    tasks = flood([*share], ["short", "middle"] * 150)
    had = dict.fromkeys(share, sum(RUNS.values()))
    planned = Planned(policy, lambda guide: Placement(policy, LEVELS, guide), learned([*share]))
    book = _Book(planned, tasks, had)
    replay(tasks, book, Fleet(8))
    served = {key: book.books[-1][key] - book.books[0][key] for key in share}
    total = sum(served.values())
    assert total > 600.0
    parts = {key: served[key] / total / (share[key] / sum(share.values())) for key in share}
    assert all(0.8 < part < 1.25 for part in parts.values()), parts
