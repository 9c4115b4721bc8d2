"""How ``dynprio replay`` shows a study in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from celery_dynprio.cli.rendering import NOTHING, Column, counted, said_seconds, seconds, table
from celery_dynprio.lab.comparison import OVERALL, Duel, Interval, Measure, duel, gain, losses, summary, wins
from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind
from celery_dynprio.lab.measures import KeyFigures, mean
from celery_dynprio.lab.report import groups_of, mean_distribution, mean_keys, worst_keys
from celery_dynprio.lab.study import Study

_ALL: Final = (
    Column("", least=16),
    Column("mean", right=True),
    Column("weighted", right=True),
    Column("median", right=True, optional=True),
    Column("p95", right=True),
    Column("p99", right=True, optional=True),
    Column("longest", right=True),
    Column("slowdown", right=True),
    Column("fairness", right=True),
    Column("in time", right=True),
    Column("late", right=True, optional=True),
    Column("idle", right=True, optional=True),
    Column("moves", right=True),
)
_DUELS: Final = (
    Column("", least=20),
    Column("own", right=True),
    Column("other", right=True),
    Column("difference", right=True),
    Column("95 % confident", right=True),
    Column("against", least=12),
)


def draw(found: Study, limit: int | None, width: int | None) -> Iterator[str]:
    """The lines that show a study; at most ``limit`` classes, keys and losses, None for all of them."""
    yield from _heading(found)
    yield ""
    yield from table(_ALL, [_row(found, each) for each in found.contenders], width)
    for contender in found.contenders:
        if contender.kind is Kind.POLICY:
            yield ""
            yield from _policy(found, contender.name, limit, width)
    yield ""
    yield from _classes(found, limit, width)
    yield ""
    yield from _keys(found, limit, width)


def _heading(found: Study) -> Iterator[str]:
    played, fleet = found.extent, found.fleet
    slots = "the workers of the trace" if fleet.slots is None else counted(fleet.slots, "slot")
    load = "" if fleet.slots is None else f", offered load {played.load(fleet.slots):.2f}"
    tasks = f"{counted(played.tasks, 'task')} in {said_seconds(played.seconds)}"
    yield f"{tasks}, {slots}{load}, a tick every {found.tick:g} s"
    if found.resampled:
        yield f"Played {found.seeds} times, with the blocks of the trace in a random order; figures are means."
    else:
        yield "Played once, as it is: differences may be chance. Use --seeds 20 for confidence intervals."
    yield "Open loop: tasks arrive when they did, however long they wait. Waits in seconds; * nobody can have this."
    unfinished = max((each.unfinished for figures in found.figures.values() for each in figures), default=0)
    if unfinished:
        yield f"Up to {counted(unfinished, 'task')} never ended: no worker was left. They are not in the figures."


def _row(found: Study, contender: Contender) -> list[str]:
    figures = found.figures[contender.name]
    values = [_middle(each, summary(found, contender.name, each)) for each in OVERALL]
    idle, moves = mean([each.idle for each in figures]), mean([each.moves_per_task for each in figures])
    name = f"{contender.name} *" if contender.kind is Kind.BOUND else contender.name
    return [name, *values, f"{idle:.1%}", f"{moves:.2f}" if contender.kind is Kind.POLICY else NOTHING]


def _policy(found: Study, name: str, limit: int | None, width: int | None) -> Iterator[str]:
    reached = gain(found, name)
    if reached is not None:
        yield f"{name} has {_percent(reached)} of what exact score order gains in weighted mean wait over first come."
    against = [each for measure in OVERALL if (each := duel(found, name, FIRST_COME, measure)) is not None]
    yield f"{name} against first come:"
    yield from table(_DUELS[:-1], [_duel_row(each)[:-1] for each in against], width)
    won = list(wins(found, name))
    clear = [each.measure.title for each, is_clear in won if is_clear]
    likely = [each.measure.title for each, is_clear in won if not is_clear]
    if clear:
        yield f"{name} is best for: {'; '.join(clear[:limit])}."
    if likely:
        yield f"Perhaps also for, but the difference may be chance: {'; '.join(likely[:limit])}."
    lost = sorted(losses(found, name), key=_relative, reverse=True)
    yield ""
    if not lost:
        yield f"{name} loses clearly in nothing that is measured."
        return
    yield f"where {name} loses:"
    yield from table(_DUELS, [_duel_row(each) for each in lost[:limit]], width)
    if limit is not None and len(lost) > limit:
        yield f"and in {len(lost) - limit} more: --limit 0 shows all"


def _relative(found: Duel) -> float:
    return abs(found.difference.mean) / max(abs(found.own), abs(found.other), 1e-9)


def _duel_row(found: Duel) -> list[str]:
    measure, difference = found.measure, found.difference
    between = (
        NOTHING
        if difference.low is None or difference.high is None
        else f"{_value(measure, difference.low, sign='+')} to {_value(measure, difference.high, sign='+')}"
    )
    return [
        measure.title,
        _value(measure, found.own),
        _value(measure, found.other),
        _value(measure, difference.mean, sign="+"),
        between,
        found.opponent,
    ]


def _classes(found: Study, limit: int | None, width: int | None) -> Iterator[str]:
    shown = [each for each in found.contenders if each.kind is Kind.POLICY or each.name == FIRST_COME]
    columns = [Column("wait by class", least=12, keep_end=True), Column("tasks", right=True)]
    for each in shown:
        columns += [Column(each.name, right=True, least=8), Column("p95", right=True)]
    rows = []
    for group in groups_of(found)[:limit]:
        waits = [mean_distribution(found.figures[each.name], group) for each in shown]
        cells = [cell for each in waits for cell in (seconds(each.mean), seconds(each.p95))]
        rows.append([group, f"{max(each.tasks for each in waits):,}", *cells])
    yield from table(columns, rows, width)


def _keys(found: Study, limit: int | None, width: int | None) -> Iterator[str]:
    """The keys that fare worst, under each policy and in a plain queue."""
    shown = [each.name for each in found.contenders if each.kind is Kind.POLICY or each.name == FIRST_COME]
    keys = {name: mean_keys(found.figures[name]) for name in shown}
    columns = [Column("slowdown by key", least=12), Column("tasks", right=True), Column("work", right=True)]
    columns += [Column(name, right=True, least=8) for name in shown]
    total = sum(each.work for each in keys[shown[0]].values()) or 1.0
    rows = [
        [
            key or "(no key)",
            f"{one.tasks:,}",
            f"{one.work / total:.0%}",
            *(_slowdown(keys[name], key) for name in shown),
        ]
        for key, one in worst_keys(keys[shown[0]], limit)
    ]
    yield from table(columns, rows, width)


def _slowdown(keys: Mapping[str, KeyFigures], key: str) -> str:
    return f"{keys[key].slowdown:.2f}" if key in keys else NOTHING


def _middle(measure: Measure, found: Interval | None) -> str:
    return NOTHING if found is None else _value(measure, found.mean)


def _value(measure: Measure, value: float, sign: str = "") -> str:
    if measure.share:
        return f"{value:{sign}.1%}"
    if measure.unit:
        return f"{value:{sign},.1f}"
    return f"{value:{sign}.2f}"


def _percent(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:.0%}"
    return f"{found.mean:.0%} ({found.low:.0%} to {found.high:.0%})"
