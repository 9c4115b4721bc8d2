"""How ``dynprio replay`` shows a study in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from celery_dynprio.cli.rendering import NO_KEY, NOTHING, Column, seconds, table
from celery_dynprio.lab.comparison import OVERALL, Duel, Interval, Measure, duel, gain, losses, summary, wins
from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind
from celery_dynprio.lab.fidelity import Fidelity
from celery_dynprio.lab.measures import KeyFigures, mean
from celery_dynprio.lab.report import groups_of, mean_distribution, mean_keys, worst_keys
from celery_dynprio.lab.study import Study
from celery_dynprio.lab.wording import caveats, heading, shown, shown_error, shown_interval
from celery_dynprio.untrusted import clean

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
_FIDELITY: Final = (
    Column("fidelity, mean wait", least=12, keep_end=True),
    Column("tasks", right=True),
    Column("recorded", right=True),
    Column("replayed", right=True),
    Column("error", right=True),
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
    if found.fidelity is not None and found.fidelity.waits:
        yield ""
        yield from fidelity_lines(found.fidelity, limit, width)


def fidelity_lines(found: Fidelity, limit: int | None, width: int | None) -> Iterator[str]:
    """How faithful the replay is, by class."""
    rows = [
        [each.name, f"{each.tasks:,}", seconds(each.recorded), seconds(each.replayed), shown_error(each.error)]
        for each in found.waits[: None if limit is None else limit + 1]
    ]
    yield from table(_FIDELITY, rows, width)


def _heading(found: Study) -> Iterator[str]:
    yield heading(found)
    yield from caveats(found)
    yield "Waits are in seconds. Nobody can have what is marked by *: it is a bound."


def _row(found: Study, contender: Contender) -> list[str]:
    figures = found.figures[contender.name]
    values = [_middle(each, summary(found, contender.name, each)) for each in OVERALL]
    idle, moves = mean([each.idle for each in figures]), mean([each.moves_per_task for each in figures])
    name = f"{contender.name} *" if contender.kind is Kind.BOUND else contender.name
    return [name, *values, f"{idle:.1%}", f"{moves:.2f}" if contender.kind is Kind.POLICY else NOTHING]


def _policy(found: Study, name: str, limit: int | None, width: int | None) -> Iterator[str]:
    reached = gain(found, name)
    if reached is not None:
        share = shown_interval(reached)
        yield f"{name} has {share} of what exact score order gains in weighted mean wait over first come."
    against = [each for measure in OVERALL if (each := duel(found, name, FIRST_COME, measure)) is not None]
    yield f"{name} against first come:"
    yield from table(_DUELS[:-1], [_duel_row(each)[:-1] for each in against], width)
    won = list(wins(found, name))
    clear = [each.measure.title for each, is_clear in won if is_clear]
    likely = [each.measure.title for each, is_clear in won if not is_clear]
    if clear:
        yield f"{name} is best for: {_listed(clear[:limit])}."
    if likely:
        yield f"Perhaps also for, but the difference may be chance: {_listed(likely[:limit])}."
    lost = sorted(losses(found, name), key=lambda each: -each.relative)
    yield ""
    if not lost:
        yield f"{name} loses clearly in nothing that is measured."
        return
    yield f"where {name} loses:"
    yield from table(_DUELS, [_duel_row(each) for each in lost[:limit]], width)
    if limit is not None and len(lost) > limit:
        yield f"and in {len(lost) - limit} more: --limit 0 shows all"


def _listed(titles: Sequence[str]) -> str:
    return "; ".join(clean(title) for title in titles)


def _duel_row(found: Duel) -> list[str]:
    measure, difference = found.measure, found.difference
    between = (
        NOTHING
        if difference.low is None or difference.high is None
        else f"{shown(measure, difference.low, sign='+')} to {shown(measure, difference.high, sign='+')}"
    )
    return [
        measure.title,
        shown(measure, found.own),
        shown(measure, found.other),
        shown(measure, difference.mean, sign="+"),
        between,
        found.opponent,
    ]


def _classes(found: Study, limit: int | None, width: int | None) -> Iterator[str]:
    columns_of = [each for each in found.contenders if each.kind is Kind.POLICY or each.name == FIRST_COME]
    columns = [Column("wait by class", least=12, keep_end=True), Column("tasks", right=True)]
    for each in columns_of:
        columns += [Column(each.name, right=True, least=8), Column("p95", right=True)]
    rows = []
    for group in groups_of(found)[:limit]:
        waits = [mean_distribution(found.figures[each.name], group) for each in columns_of]
        cells = [cell for each in waits for cell in (seconds(each.mean), seconds(each.p95))]
        rows.append([group, f"{max(each.tasks for each in waits):,}", *cells])
    yield from table(columns, rows, width)


def _keys(found: Study, limit: int | None, width: int | None) -> Iterator[str]:
    """The keys that fare worst, under each policy and in a plain queue."""
    names = [each.name for each in found.contenders if each.kind is Kind.POLICY or each.name == FIRST_COME]
    keys = {name: mean_keys(found.figures[name]) for name in names}
    columns = [Column("slowdown by key", least=12), Column("tasks", right=True), Column("work", right=True)]
    columns += [Column(name, right=True, least=8) for name in names]
    total = sum(each.work for each in keys[names[0]].values()) or 1.0
    rows = [
        [
            key or NO_KEY,
            f"{one.tasks:,}",
            f"{one.work / total:.0%}",
            *(_slowdown(keys[name], key) for name in names),
        ]
        for key, one in worst_keys(keys[names[0]], limit)
    ]
    yield from table(columns, rows, width)


def _slowdown(keys: Mapping[str, KeyFigures], key: str) -> str:
    return f"{keys[key].slowdown:.2f}" if key in keys else NOTHING


def _middle(measure: Measure, found: Interval | None) -> str:
    return NOTHING if found is None else shown(measure, found.mean)
