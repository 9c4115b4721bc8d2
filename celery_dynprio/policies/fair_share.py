"""How little worker time a task's key (tenant, customer, user) has had, and is about to have before this task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.ahead import ahead_of_all
from celery_dynprio.policies.base import BulkScorer, Factor, Policy, Scorer, is_number
from celery_dynprio.policies.charges import CAUTIOUS
from celery_dynprio.policies.extremes import Max, Min
from celery_dynprio.policies.shares import Shares

#: The value of a key that had exactly its share.
EXACT_SHARE: Final = 0.5

#: From a key to its share; None for an ordinary one.
ShareOf: TypeAlias = Callable[[str], float | None]


class Account(NamedTuple):
    """What counts for a task's key, in seconds of worker time, and its share."""

    used: float
    running: float
    ahead: float
    share: float


def account(policy: Policy, task: PendingTask, context: Context) -> Account | None:
    """Return what a policy's first fair share counts for a task; None if it has none.

    Raises what :meth:`FairShare.bind` raises.
    """
    fair = next((each for _, factor in policy.terms for each in _fair_shares(factor)), None)
    if fair is None:
        return None
    key, keys = task.key or "", {*context.use, *context.running, *context.pending_keys}
    share = fair.shares_in(context, keys)(key)
    return Account(context.use.get(key, 0.0), context.running.get(key, 0.0), context.ahead(task), share)


def _fair_shares(factor: Factor) -> Iterator[FairShare]:
    if isinstance(factor, FairShare):
        yield factor
    for each in factor.factors if isinstance(factor, (Max, Min)) else ():
        yield from _fair_shares(each)


@dataclass(frozen=True)
class FairShare(Factor):
    """``1 / (1 + v / u)``, where v is what the task's key has had and is about to have before it, over its share.

    That is, in seconds of worker time: its decayed use, the expected runtimes of its tasks that run now, and those of
    its pending tasks that go before this one. v is the start time of a packet in weighted fair queueing (Demers,
    Keshav and Shenker 1989; start-time fair queueing, Goyal 1996): it stays the same while those tasks run, and it is
    higher for each further task of a flood. u is what a key of share 1 has had if all had their shares, and at least
    :data:`~celery_dynprio.policies.charges.CAUTIOUS`. So a key that had exactly its share gets 0.5 for its next task,
    one that had nothing 1, and one that had nine times its share 0.1. All tasks without a key count as one key. While
    no key or only one is known, nobody is to be fair to, and every task gets 0.5.

    ``shares`` are numbers above 0 by key, or a function from a key (a string; "" for none) to one or to None; it is
    called once a tick for each key. Any other key has a share of 1. With ``separator`` ("/", say) keys are paths such
    as ``org/team``, and shares are those of a path among its siblings.
    """

    alike_in_key = True

    shares: Mapping[str, float] | ShareOf | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        separator: object = self.separator
        if separator is not None and not (isinstance(separator, str) and separator):
            raise PolicyError(f"FairShare(separator={separator!r}): use a text such as '/', or None")
        if isinstance(self.shares, Mapping):
            for key, share in self.shares.items():
                if not is_number(share) or share <= 0:
                    raise PolicyError(f"FairShare(shares={{{key!r}: {share!r}}}): use a finite number above 0 by key")
        elif self.shares is not None and not callable(self.shares):
            raise PolicyError(f"FairShare(shares={self.shares!r}): use numbers by key, or a function from a key to one")

    def __repr__(self) -> str:
        given = {"shares": self.shares, "separator": self.separator}
        return f"FairShare({', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)})"

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        ahead, keys = context.ahead, {*context.use, *context.running, *context.pending_keys}
        if len(keys) <= 1:
            return BulkScorer(lambda _: EXACT_SHARE, lambda tasks: [EXACT_SHARE] * len(tasks))
        share, use, running = self.shares_in(context, keys), context.use.get, context.running.get
        had = sum(context.use.values()) + sum(context.running.values())
        usual = max(had / share.sum(keys), CAUTIOUS)

        def score(task: PendingTask) -> float:
            key = task.key or ""
            return usual / (usual + (use(key, 0.0) + running(key, 0.0) + ahead(task)) / share(key))

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            before, keys = ahead_of_all(tasks, context)
            had = {key: use(key, 0.0) + running(key, 0.0) for key in set(keys)}
            shares = {key: share(key) for key in had}
            both = zip(keys, before, strict=True)
            return [usual / (usual + (had[key] + seconds) / shares[key]) for key, seconds in both]

        def score_of_equals(task: PendingTask) -> float:
            key = task.key or ""
            return usual / (usual + use(key, 0.0) + running(key, 0.0) + ahead(task))

        def score_all_of_equals(tasks: Sequence[PendingTask]) -> Sequence[float]:
            before, keys = ahead_of_all(tasks, context)
            had = {key: usual + use(key, 0.0) + running(key, 0.0) for key in set(keys)}
            return [usual / (had[key] + seconds) for key, seconds in zip(keys, before, strict=True)]

        if share.are_equal:
            return BulkScorer(score_of_equals, score_all_of_equals)
        return BulkScorer(score, score_all)

    def shares_in(self, context: Context, keys: Iterable[str]) -> Shares:
        """Return the shares that are in force: an operator's before those of this factor."""
        if callable(self.shares):
            return Shares(self.shares, context.shares, keys, self.separator)
        set_ = {**self.shares, **context.shares} if self.shares else context.shares
        return Shares(None, set_, keys, self.separator)
