"""Stores in the memory of this process: for tests, and where nothing else remembers."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from celery_dynprio.models import Run, RunningTask, Start
from celery_dynprio.objectives import Names, Objective, Standing
from celery_dynprio.policies.decay import DecayedSums
from celery_dynprio.ports.guidance import EXPIRY, Guidance
from celery_dynprio.ports.histograms import Series, SeriesKey, count_runs
from celery_dynprio.ports.spans import CAUSES
from celery_dynprio.ports.stores import MAX_REMEMBERED, MAX_RUNNING, RUNNING_TTL, Entry, SetShare, UsageFigures
from celery_dynprio.runtimes import Runtimes, Sums
from celery_dynprio.stores.feed import MemoryFeed, MemoryFeeds
from celery_dynprio.tracing.records import LoneRun, SpanRecord, Trace

#: How many entries of the audit are kept; the oldest go first.
AUDIT_LENGTH: Final = 10_000

#: Seconds for which a leader's last count of overdue tasks is valid; two intervals if that is more.
FRESH: Final = 30.0

#: The present rate of starts is that of the last tenth of the window, or of this many seconds if that is more.
SHORTEST_RECENT: Final = 5.0

K = TypeVar("K")


class MemorySwitch:
    """The kill switch of this process's reprioritizers."""

    def __init__(self) -> None:
        self._paused = False

    def pause(self) -> None:
        """Stop all moves."""
        self._paused = True

    def resume(self) -> None:
        """Let the reprioritizers move again."""
        self._paused = False

    def paused(self) -> bool:
        """Whether :meth:`pause` is in force."""
        return self._paused


class MemoryAudit:
    """What operators did, with times by ``clock`` (Unix seconds)."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=AUDIT_LENGTH)

    def add(self, **entry: str) -> None:
        """Keep one entry: fields of :class:`~celery_dynprio.ports.stores.Entry` without ``at``."""
        self._entries.appendleft(Entry(self._clock(), **{"op": "", "by": "", **entry}))

    def read(self) -> Iterator[Entry]:
        """Return all entries, the newest first."""
        return iter(tuple(self._entries))

    def last_pause(self) -> Entry | None:
        """Return the newest pause or drain; None if newer entries have taken its place."""
        return next((entry for entry in self.read() if entry.op in {"pause", "drain"}), None)


class MemoryCancellations:
    """A sign of life that runs out by ``clock`` (seconds)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = -math.inf

    def show_life(self, by: str, seconds: float) -> None:  # noqa: ARG002 - nobody asks who
        """Say that somebody is cancelling tasks, for so long."""
        self._until = self._clock() + seconds

    def under_way(self) -> bool:
        """Whether somebody said so, and it has not run out."""
        return self._clock() < self._until


class MemoryAttainment:
    """Starts and breaches of some objectives; ``clock`` and ``interval`` are as in the port."""

    def __init__(
        self, objectives: Sequence[Objective], clock: Callable[[], float] | None = None, interval: float = 1.0
    ) -> None:
        self._objectives = objectives
        self._names = Names([objective.match for objective in objectives])
        self._clock = clock or time.time
        self._fresh = max(FRESH, 2 * interval)
        #: For each objective when tasks started, and whether they were in time.
        self._starts: list[deque[tuple[float, bool]]] = [deque() for _ in objectives]
        #: By queue and objective: how many tasks are overdue, and since when that is known.
        self._overdue: dict[tuple[str, int], tuple[int, float]] = {}
        self._breaches: dict[int, float] = {}

    def add(self, starts: Iterable[Start]) -> None:
        """Count tasks that have just started."""
        now = self._clock()
        for start in starts:
            for index in self._names.matching(start.name):
                self._starts[index].append((now, start.wait <= self._objectives[index].within))

    def tell(self, queue: str, overdue: Mapping[int, int]) -> None:
        """Store how many tasks of one queue are overdue, by the index of the objective."""
        now = self._clock()
        for index in range(len(self._objectives)):
            self._overdue[queue, index] = overdue.get(index, 0), now

    def read(self) -> list[Standing]:
        """Return the state of all objectives."""
        now = self._clock()
        return [self._standing(index, now) for index in range(len(self._objectives))]

    def turn(self, standing: Standing) -> Standing | None:
        """Store a breach or a recovery; None if another reprioritizer was first."""
        index = self._objectives.index(standing.objective)
        if standing.since is not None:
            return None if self._breaches.pop(index, None) is None else replace(standing, since=None)
        if index in self._breaches:
            return None
        self._breaches[index] = self._clock()
        return replace(standing, since=self._breaches[index])

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _standing(self, index: int, now: float) -> Standing:
        objective, starts = self._objectives[index], self._starts[index]
        while starts and starts[0][0] < now - objective.window:
            starts.popleft()
        counts = [
            count for (_, each), (count, at) in self._overdue.items() if each == index and now - at <= self._fresh
        ]
        recent = min(max(objective.window / 10, SHORTEST_RECENT), objective.window)
        rate = sum(at >= now - recent for at, _ in starts) / recent
        in_time = sum(each for _, each in starts)
        return Standing(objective, len(starts), in_time, sum(counts), self._breaches.get(index), rate)


class MemorySpans:
    """Spans in this process only, without bounds."""

    def __init__(self) -> None:
        self.dropped = self.taken = 0
        self._traces: dict[str, dict[str, SpanRecord]] = {}
        self._dropped: Counter[str] = Counter()

    def add(self, records: Sequence[SpanRecord], lone: Sequence[LoneRun] = ()) -> None:
        """Store these records and runs."""
        for record in (*records, *(run.record() for run in lone)):
            spans = self._traces.setdefault(record.trace_id, {})
            known = spans.get(record.field)
            if known is None or known.rank <= record.rank:
                spans[record.field] = record
            self.taken += 1

    def ids_with(self, start: str) -> set[str]:
        """Return the ids of traces and of tasks that begin with this text."""
        ids = {span.task_id for spans in self._traces.values() for span in spans.values()} | self._traces.keys()
        return {each for each in ids if each.startswith(start)}

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none."""
        for trace_id, spans in reversed(self._traces.items()):
            if trace_or_task_id in {trace_id, *(span.task_id for span in spans.values())}:
                return Trace(trace_id, tuple(spans.values()))
        return None

    def add_dropped(self, totals: Mapping[str, int]) -> None:
        """Take over the totals of this process, by cause, where they have grown."""
        self._dropped |= Counter(totals)

    def dropped_counts(self) -> Mapping[str, int]:
        """Return how many records were dropped, by cause."""
        return {cause: self._dropped[cause] for cause in CAUSES}

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryHistograms:
    """Histograms of this process only."""

    def __init__(self) -> None:
        self._series: dict[SeriesKey, Series] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs."""
        count_runs(runs, self._series)

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts."""
        return dict(self._series)

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryUsage:
    """Learned use in this process only: for tests and simulations. ``half_life`` is in seconds."""

    def __init__(self, half_life: float = 600.0, clock: Callable[[], float] = time.time) -> None:
        self._half_life = half_life
        self._clock = clock
        self._use: dict[str, DecayedSums] = {}
        self._names: dict[str, DecayedSums] = {}
        self._pairs: dict[tuple[str, str], DecayedSums] = {}
        #: The sums of each name and key: as many as that may be, a copy of them costs little.
        self._sums: dict[tuple[str, str], Sums] = {}
        self._runtimes: Runtimes | None = None

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now."""
        now = self._clock()
        for run in runs:
            self._count(self._use, run.key, run.seconds, now)
            self._count(self._names, run.name, run.seconds, now)
            if run.key:
                self._count_pair((run.name, run.key), run.seconds, now)
            self._runtimes = None

    def read(self, now: float) -> UsageFigures:
        """Return learned runtimes, and decayed use in seconds by key, as of ``now`` (Unix seconds)."""
        if self._runtimes is None:
            means = {name: known.mean for name, known in self._names.items()}
            names = {name: known.sums for name, known in self._names.items()}
            self._runtimes = Runtimes(means, names, self._sums.copy())
        return UsageFigures(
            self._runtimes, {key: used.seconds_at(now, self._half_life) for key, used in self._use.items()}
        )

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _count_pair(self, pair: tuple[str, str], seconds: float, now: float) -> None:
        forgotten = self._count(self._pairs, pair, seconds, now)
        self._sums[pair] = self._pairs[pair].sums
        if forgotten is not None:
            del self._sums[forgotten]

    def _count(self, learned: dict[K, DecayedSums], what: K, seconds: float, now: float) -> K | None:
        """Count a run; if there are too many, what had none for the longest time is forgotten, and returned."""
        known = learned.pop(what, None) or DecayedSums(Sums(0.0, 0.0, 0.0), now)
        learned[what] = known.plus(seconds, now, self._half_life)
        if len(learned) <= MAX_REMEMBERED:
            return None
        oldest = next(iter(learned))
        del learned[oldest]
        return oldest


class MemoryGuidance:
    """What leaders in this process tell producers in it; it expires by ``clock`` (seconds)."""

    def __init__(self, expiry: float = EXPIRY, clock: Callable[[], float] = time.monotonic) -> None:
        self._expiry = expiry
        self._clock = clock
        self._known: dict[str, tuple[float, Guidance]] = {}

    def publish(self, queue: str, guidance: Guidance) -> None:
        """Replace what is known of this queue."""
        self._known[queue] = self._clock() + self._expiry, guidance

    def read(self, queues: Collection[str]) -> Mapping[str, Guidance]:
        """Return the guidance of these queues."""
        now = self._clock()
        known = {queue: self._known[queue] for queue in queues if queue in self._known}
        return {
            queue: replace(guidance.bounded(), levels=range(guidance.bands.count))  # as MemoryLevels says
            for queue, (until, guidance) in known.items()
            if now < until
        }


class MemoryRunning:
    """What runs now, as told by this process only; ``clock`` gives Unix seconds, ``ttl`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.time, ttl: float = RUNNING_TTL) -> None:
        self._clock = clock
        self._ttl = ttl
        #: What was told, and until when it counts, by the id of the run.
        self._runs: dict[str, tuple[RunningTask, float]] = {}

    def start(self, runs: Iterable[RunningTask], now: float) -> None:
        """Count these as running, since they started by a clock at which it is ``now``; also again."""
        clock = self._clock()
        for run in runs:
            known = self._runs.get(run.id)
            started = known[0].started if known else clock - max(now - run.started, 0.0)
            if known or len(self._runs) < MAX_RUNNING:
                self._runs[run.id] = run._replace(started=started), clock + self._ttl

    def end(self, ids: Iterable[str]) -> None:
        """Count these as running no more."""
        for each in ids:
            self._runs.pop(each, None)

    def read(self, now: float) -> list[RunningTask]:
        """Return what runs ``now`` (Unix seconds)."""
        self._runs = {each: told for each, told in self._runs.items() if told[1] > now}
        return [run for run, _ in self._runs.values()]

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryShares:
    """The shares that operators have set, in this process only."""

    def __init__(self) -> None:
        self._shares: dict[str, SetShare] = {}

    def set(self, share: SetShare, now: float) -> None:
        """Keep it, in the place of another one of its key."""
        self._shares = {each.key: each for each in self.read(now)} | {share.key: share}

    def remove(self, key: str) -> bool:
        """Drop the share of a key; return whether there was one."""
        return self._shares.pop(key, None) is not None

    def read(self, now: float) -> list[SetShare]:
        """Return those that count ``now`` (Unix seconds), sorted by key."""
        return sorted(each for each in self._shares.values() if each.until is None or now < each.until)


class MemoryStores:
    """One store of each kind, the same at each call but for feeds: see :class:`~celery_dynprio.ports.stores.Stores`.

    The first call decides on the options of a store.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._switch = MemorySwitch()
        self._audit = MemoryAudit(clock)
        self._usage: MemoryUsage | None = None
        self._running = MemoryRunning(clock)
        self._shares = MemoryShares()
        self._attainments: dict[tuple[Objective, ...], MemoryAttainment] = {}
        self._histograms = MemoryHistograms()
        self._spans = MemorySpans()
        self._cancellations = MemoryCancellations()
        self._guidance: MemoryGuidance | None = None
        self._feeds = MemoryFeeds()

    def switch(self) -> MemorySwitch:
        """Return the kill switch."""
        return self._switch

    def audit(self) -> MemoryAudit:
        """Return the log of what operators did."""
        return self._audit

    def usage(self, half_life: float) -> MemoryUsage:
        """Return learned runtimes and use."""
        if self._usage is None:
            self._usage = MemoryUsage(half_life, self._clock)
        return self._usage

    def running(self) -> MemoryRunning:
        """Return what runs now."""
        return self._running

    def shares(self) -> MemoryShares:
        """Return the shares that operators have set."""
        return self._shares

    def attainment(
        self, objectives: Sequence[Objective], clock: Callable[[], float] | None = None, interval: float = 1.0
    ) -> MemoryAttainment:
        """Return the counts of these objectives."""
        key = tuple(objectives)
        if key not in self._attainments:
            self._attainments[key] = MemoryAttainment(key, clock or self._clock, interval)
        return self._attainments[key]

    def histograms(self) -> MemoryHistograms:
        """Return the histograms of waits and runs."""
        return self._histograms

    def spans(self, ttl: float = 86_400.0, spans: int = 1000, total: int = 100_000) -> MemorySpans:  # noqa: ARG002 - it has no bounds
        """Return the trace store."""
        return self._spans

    def feed(self) -> MemoryFeed:
        """Return a feed of its own for each call."""
        return MemoryFeed(self._feeds)

    def cancellations(self) -> MemoryCancellations:
        """Return the signs of life of operators who cancel tasks."""
        return self._cancellations

    def guidance(self, expiry: float = EXPIRY) -> MemoryGuidance:
        """Return what leaders tell producers."""
        if self._guidance is None:
            self._guidance = MemoryGuidance(expiry, self._clock)
        return self._guidance
