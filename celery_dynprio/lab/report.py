"""A study as plain data: what ``--json`` prints. Seconds unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from celery_dynprio.lab.comparison import OVERALL, Duel, Interval, Measure, duel, gain, losses, summary, wins
from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind
from celery_dynprio.lab.fidelity import Fidelity
from celery_dynprio.lab.measures import Distribution, KeyFigures, Measures, mean
from celery_dynprio.lab.study import Study


def as_object(found: Study, limit: int | None = None) -> dict[str, Any]:
    """Everything that is shown of a study; at most ``limit`` keys, those with the largest slowdown, None for all."""
    played = found.extent
    return {
        "open_loop": True,
        "tasks": played.tasks,
        "seconds": played.seconds,
        "load": None if found.fleet.slots is None else played.load(found.fleet.slots),
        "workers": found.fleet.workers,
        "concurrency": found.fleet.concurrency,
        "prefetch": found.fleet.prefetch,
        "turnaround": found.fleet.turnaround,
        "tick": found.tick,
        "seeds": found.seeds,
        "resampled": found.resampled,
        "fidelity": fidelity_object(found.fidelity),
        "contenders": [_contender(found, each, limit) for each in found.contenders],
        "comparisons": [_comparison(found, each) for each in found.contenders if each.kind is Kind.POLICY],
    }


def fidelity_object(found: Fidelity | None) -> dict[str, Any] | None:
    """How faithful a replay is; None if what was played is no recording of ours."""
    if found is None:
        return None
    return {
        "unknown": found.unknown or None,
        "waits": [{**each._asdict(), "error": each.error} for each in found.waits],
    }


def _contender(found: Study, contender: Contender, limit: int | None) -> dict[str, Any]:
    figures = found.figures[contender.name]
    return {
        "name": contender.name,
        "kind": contender.kind.value,
        **{_field(each): _interval(summary(found, contender.name, each)) for each in OVERALL},
        "idle_while_waiting": mean([each.idle for each in figures]),
        "utilization": mean([each.utilization for each in figures]),
        "mean_pending": mean([each.pending for each in figures]),
        "moves_per_task": mean([each.moves_per_task for each in figures]),
        "broker_load_of_moves": mean([each.broker_load for each in figures]),
        "unfinished": mean([each.unfinished for each in figures]),
        "classes": {name: _class(found, contender.name, name) for name in groups_of(found)},
        "keys": {key: asdict(each) for key, each in worst_keys(mean_keys(figures), limit)},
    }


def _class(found: Study, contender: str, group: str) -> dict[str, Any]:
    waits = mean_distribution(found.figures[contender], group)
    shares = [each.groups_in_time[group] for each in found.figures[contender] if group in each.groups_in_time]
    return {**waits._asdict(), "in_time": mean(shares) if shares else None}


def _comparison(found: Study, policy: Contender) -> dict[str, Any]:
    against = [duel(found, policy.name, FIRST_COME, measure) for measure in OVERALL]
    return {
        "policy": policy.name,
        "gain_of_exact_order": _interval(gain(found, policy.name)),
        "against_first_come": [duel_object(each) for each in against if each is not None],
        "best_for": [{**duel_object(each), "clear": clear} for each, clear in wins(found, policy.name)],
        "loses": [duel_object(each) for each in losses(found, policy.name)],
    }


def duel_object(found: Duel) -> dict[str, Any]:
    """How one contender stands against another in one measure."""
    return {
        "measure": found.measure.title,
        "opponent": found.opponent,
        "own": found.own,
        "other": found.other,
        "difference": _interval(found.difference),
    }


def _interval(found: Interval | None) -> Mapping[str, float | None] | None:
    return None if found is None else found._asdict()


def _field(measure: Measure) -> str:
    words = measure.title.partition("(")[0].replace(",", "").split()
    return "_".join(words).lower()


def groups_of(found: Study) -> list[str]:
    """All classes, those with the most tasks first."""
    counts: dict[str, int] = {}
    for figures in found.figures.values():
        for each in figures:
            for group, waits in each.groups.items():
                counts[group] = max(counts.get(group, 0), waits.tasks)
    return sorted(counts, key=lambda group: (-counts[group], group))


def mean_distribution(figures: Iterable[Measures], group: str) -> Distribution:
    """The waits of one class, each figure as its mean over the seeds in which there were such tasks."""
    waits = [each.groups[group] for each in figures if group in each.groups]
    if not waits:
        return Distribution(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    means = [mean(column) for column in zip(*waits, strict=True)]
    return Distribution(round(means[0]), *means[1:])


def mean_keys(figures: Iterable[Measures]) -> dict[str, KeyFigures]:
    """How each key fared, each figure as its mean over the seeds in which it had tasks."""
    found: dict[str, list[KeyFigures]] = {}
    for each in figures:
        for key, one in each.keys.items():
            found.setdefault(key, []).append(one)
    return {
        key: KeyFigures(
            round(mean([one.tasks for one in ones])),
            mean([one.work for one in ones]),
            mean([one.wait for one in ones]),
            mean([one.slowdown for one in ones]),
        )
        for key, ones in found.items()
    }


def worst_keys(keys: Mapping[str, KeyFigures], limit: int | None) -> list[tuple[str, KeyFigures]]:
    """The keys with the largest mean slowdown first."""
    return sorted(keys.items(), key=lambda item: (-item[1].slowdown, item[0]))[:limit]
