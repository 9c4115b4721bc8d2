"""How ``dynprio tune`` shows what it found, in a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from celery_dynprio.cli.rendering import Column, counted, table
from celery_dynprio.lab.comparison import Duel, Measure, summary
from celery_dynprio.lab.contenders import FIRST_COME
from celery_dynprio.lab.report import duel_object, fidelity_object
from celery_dynprio.lab.tuning import Candidate, Tuned
from celery_dynprio.lab.wording import faithful, heading, shown
from celery_dynprio.untrusted import clean

_DUELS: Final = (
    Column("", least=4),
    Column("objective", least=20),
    Column("own", right=True),
    Column("present", right=True),
    Column("difference", right=True),
    Column("95 % confident, all together", right=True),
    Column("", least=6),
)

_NOTHING_FOUND: Final = (
    "Nothing is recommended: no policy that was found is better than the present one by more than the noise. "
    "Keep what you have, or record for longer."
)

#: So many measures that a policy is worse in beside the objectives are named.
_COSTS: Final = 4


def draw(found: Tuned, width: int | None) -> Iterator[str]:
    """The lines that show what tuning found."""
    yield from _heading(found)
    judged = found.judged
    if judged.candidates:
        yield ""
        yield from _table(found, width)
        yield ""
        yield from table(_DUELS, list(_duels(found)), width)
    yield ""
    yield from _verdict(judged.candidates, judged.own)


def _heading(found: Tuned) -> Iterator[str]:
    tried, best = len(found.searched.trials) - 1, len(found.searched.front)
    ended = " before the search was ended" if found.searched.cut_short else ""
    first, judged = counted(found.first.tasks, "task"), found.judged.study
    yield f"Searched the first {found.share:.0%} of the time, {first}: tried {tried:,} other policies{ended}."
    yield f"In all objectives at once, {best:,} of them {'is' if best == 1 else 'are'} beaten by no other one."
    yield f"Judged on the rest, which the search has not seen: {heading(judged)}."
    yield f"Played {judged.seeds} times, with its blocks in a random order; figures are means."
    yield "Open loop: tasks arrive when they did, however long they wait."
    if judged.fidelity is not None:
        yield faithful(judged.fidelity)


def _table(found: Tuned, width: int | None) -> Iterator[str]:
    judged = found.judged
    aims = judged.objectives
    columns = [Column("", least=10), *(Column(each.title, right=True) for each in aims), Column("verdict", least=12)]
    verdicts = {each.name: _word(each) for each in judged.candidates} | {judged.own: "present"}
    names = [judged.own, *(each.name for each in judged.candidates), FIRST_COME]
    rows = [[name, *(_mean(found, name, each) for each in aims), verdicts.get(name, "plain queue")] for name in names]
    yield from table(columns, rows, width)


def _mean(found: Tuned, name: str, measure: Measure) -> str:
    values = summary(found.judged.study, name, measure)
    return "-" if values is None else shown(measure, values.mean)


def _word(found: Candidate) -> str:
    if found.is_gain:
        return "better"
    if found.is_trade:
        return "trade-off"
    return "worse" if found.worse else "within the noise"


def _duels(found: Tuned) -> Iterator[list[str]]:
    for each in found.judged.candidates:
        parts = (("better", each.better), ("worse", each.worse), ("noise", each.unclear))
        for number, (word, one) in enumerate((word, one) for word, ones in parts for one in ones):
            yield [each.name if not number else "", *_cells(one), word]


def _cells(found: Duel) -> list[str]:
    measure, difference = found.measure, found.difference
    low, high = (difference.mean if each is None else each for each in (difference.low, difference.high))
    return [
        measure.title,
        shown(measure, found.own),
        shown(measure, found.other),
        shown(measure, difference.mean, sign="+"),
        f"{shown(measure, low, sign='+')} to {shown(measure, high, sign='+')}",
    ]


def _verdict(candidates: Sequence[Candidate], own: str) -> Iterator[str]:
    gains = [each for each in candidates if each.is_gain]
    trades = [each for each in candidates if each.is_trade]
    if not gains and not trades:
        yield _NOTHING_FOUND
        return
    if gains:
        yield f"Better than {own} by more than the noise, and worse in no objective. Paste one into the settings:"
        for each in gains:
            yield from _pasted(each)
    if trades:
        if gains:
            yield ""
        yield "Better in one objective and worse in another. What is worth more is yours to say:"
        for each in trades:
            yield from _pasted(each)
    yield ""
    yield "Nothing was changed."


def _pasted(found: Candidate) -> Iterator[str]:
    yield ""
    yield f"# {found.name}: better in {_titles(found.better)}" + (
        f"; worse in {_titles(found.worse)}" * bool(found.worse)
    )
    if found.costs:
        more = len(found.costs) - _COSTS
        yield f"# It costs, beside the objectives: {_costs(found.costs[:_COSTS])}" + f"; and {more} more" * (more > 0)
    yield f"dynprio_policy = {found.policy!r}"


def _titles(duels: Sequence[Duel]) -> str:
    return ", ".join(clean(each.measure.title) for each in duels)


def _costs(duels: Sequence[Duel]) -> str:
    return "; ".join(
        f"{clean(each.measure.title)} {shown(each.measure, each.other)} to {shown(each.measure, each.own)}"
        for each in duels
    )


def as_object(found: Tuned) -> dict[str, Any]:
    """What tuning found, for programs."""
    judged, trials = found.judged, found.searched.trials
    titles = [each.title for each in judged.objectives]
    return {
        "objectives": titles,
        "split": found.share,
        "searched_tasks": found.first.tasks,
        "trials": len(trials) - 1,
        "cut_short": found.searched.cut_short,
        "front": [_trial(titles, each.values, repr(each.policy)) for each in found.searched.front],
        "judged_tasks": judged.study.extent.tasks,
        "seeds": judged.study.seeds,
        "fidelity": fidelity_object(judged.study.fidelity),
        "comparisons": judged.comparisons,
        "present": {"name": judged.own, **_trial(titles, trials[0].values, repr(trials[0].policy))},
        "candidates": [_candidate(titles, each) for each in judged.candidates],
        "recommended": [each.name for each in judged.candidates if each.is_gain],
    }


def _trial(titles: Sequence[str], values: Sequence[float], policy: str) -> dict[str, Any]:
    return {"policy": policy, "searched": dict(zip(titles, values, strict=True))}


def _candidate(titles: Sequence[str], found: Candidate) -> dict[str, Any]:
    return {
        "name": found.name,
        **_trial(titles, found.searched, repr(found.policy)),
        "verdict": _word(found),
        "better": [duel_object(each) for each in found.better],
        "worse": [duel_object(each) for each in found.worse],
        "within_noise": [duel_object(each) for each in found.unclear],
        "costs": [duel_object(each) for each in found.costs],
    }
