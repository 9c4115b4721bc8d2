"""A study as one HTML page with charts, for people without a terminal. It loads nothing from elsewhere and needs no
script; it is light or dark as the reader's system is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from celery_dynprio.lab.charts import Bar, Line, bars, dots, lines, log_axis, plain_axis, seconds_axis, share_axis
from celery_dynprio.lab.comparison import OVERALL, Duel, Measure, gain, losses, summary, wins
from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind
from celery_dynprio.lab.fidelity import Fidelity
from celery_dynprio.lab.measures import CURVE, PARTS, mean
from celery_dynprio.lab.report import groups_of, mean_keys
from celery_dynprio.lab.study import Study
from celery_dynprio.lab.wording import caveats, heading, shown, shown_error, shown_interval

#: So many classes get a chart of their own, and so many losses a line.
_CHARTS: Final = 6
_LOSSES: Final = 20
_COLOURS: Final = 8
#: A smaller share of the work is drawn as this one.
_SMALLEST: Final = 0.0001
_PAIRED: Final = (
    "<p>A line is where the mean is with 95 % confidence. All play the same workloads, so the difference between two "
    "is more certain than their lines: see the tables below.</p>"
)
#: The title is shown where the screen is too narrow for a head.
_CELL: Final = '<td data-title="{}">{}</td>'
_COLUMNS: Final = ("measure", "own", "other", "difference", "95 % confident", "against")


def page(found: Study) -> str:
    """The whole page."""
    body = "".join(
        [
            *_top(found),
            *_section("Who is better at what", "".join(_measures(found)), _PAIRED * found.resampled + _legend(found)),
            *_section("How long tasks wait", "".join(_waits(found)), _legend(found, lines=True)),
            *_section("How keys fare", "".join(_keys(found)), _legend(found, lines=True)),
            *_fidelity(found.fidelity),
            *(part for each in found.contenders if each.kind is Kind.POLICY for part in _verdict(found, each)),
        ]
    )
    style = files("celery_dynprio.lab").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Replay of {found.extent.tasks:,} tasks</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _top(found: Study) -> Iterator[str]:
    yield f"<h1>Replay of {found.extent.tasks:,} tasks</h1><p>{escape(heading(found))}.</p>"
    for line in caveats(found):
        yield f"<p>{escape(line)}</p>"


def _section(title: str, charts: str, legend: str) -> Iterator[str]:
    yield f'<section><h2>{escape(title)}</h2>{legend}<div class="charts">{charts}</div></section>'


def _figure(title: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>"


def _style(found: Study, name: str) -> str:
    """The class of a contender: policies have colours of their own, all else a shade."""
    names = [each.name for each in found.contenders if each.kind is Kind.POLICY]
    if name in names:
        return f"c{names.index(name) % _COLOURS}"
    if name == FIRST_COME:
        return "first"
    return "bound" if any(each.name == name and each.kind is Kind.BOUND for each in found.contenders) else "plain"


def _legend(found: Study, *, lines: bool = False) -> str:
    if lines:
        entries = [(each, _style(found, each)) for each in _drawn(found)]
    else:
        entries = [(each.name, _style(found, each.name)) for each in found.contenders if each.kind is Kind.POLICY]
        entries += [(FIRST_COME, "first"), ("other plain orders", "plain"), ("bounds that nobody can have", "bound")]
    items = "".join(f'<li><i class="{style}"></i>{escape(name)}</li>' for name, style in entries)
    return f'<ul class="legend">{items}</ul>'


def _drawn(found: Study) -> list[str]:
    """Those that are drawn as lines: more would be a tangle."""
    return [each.name for each in found.contenders if each.kind is Kind.POLICY or each.name == FIRST_COME]


def _measures(found: Study) -> Iterator[str]:
    for measure in OVERALL:
        rows = [row for each in found.contenders if (row := _bar(found, each, measure)) is not None]
        if rows:
            better = "more is better" if measure.more else "less is better"
            yield _figure(f"{measure.title} ({better})", bars(rows, measure.title))


def _bar(found: Study, contender: Contender, measure: Measure) -> Bar | None:
    values = summary(found, contender.name, measure)
    if values is None:
        return None
    style = _style(found, contender.name)
    return Bar(
        contender.name, style, values.mean, values.low, values.high, f"{shown(measure, values.mean)}{measure.unit}"
    )


def _waits(found: Study) -> Iterator[str]:
    for group in ["", *groups_of(found)[:_CHARTS]]:
        series = [
            Line(name, _style(found, name), list(zip(CURVE, curve, strict=True)))
            for name in _drawn(found)
            if (curve := _curve(found, name, group))
        ]
        most = max((value for each in series for _, value in each.points), default=0.0)
        title = f"Waits of {group or 'all tasks'}"
        yield _figure(
            title, lines(series, share_axis("share of tasks that wait at most so long"), seconds_axis(most), title)
        )
    yield _over_time(found)


def _curve(found: Study, name: str, group: str) -> Sequence[float]:
    curves = [each.curves[group] for each in found.figures[name] if each.curves.get(group)]
    return [mean(values) for values in zip(*curves, strict=True)]


def _over_time(found: Study) -> str:
    unit, length = _unit(found.extent.seconds)
    span = found.extent.seconds / length
    series = [
        Line(
            name,
            _style(found, name),
            [(span * (part + 0.5) / PARTS, wait) for part, wait in enumerate(parts) if wait is not None],
        )
        for name in _drawn(found)
        if (parts := found.figures[name][0].timeline)
    ]
    most = max((value for each in series for _, value in each.points), default=0.0)
    title = "Mean wait by the time of publishing" + (", of the first of the plays" if found.resampled else "")
    return _figure(title, lines(series, plain_axis(0.0, span, unit), seconds_axis(most), title))


def _unit(seconds: float) -> tuple[str, float]:
    """In which unit so long a time is told, and its seconds."""
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next(((name, length) for name, length in units if seconds >= 3 * length), ("seconds", 1.0))


def _keys(found: Study) -> Iterator[str]:
    keys = {name: mean_keys(found.figures[name]) for name in _drawn(found)}
    total = sum(each.work for each in keys[FIRST_COME].values()) or 1.0
    shares = [max(each.work / total, _SMALLEST) for each in keys[FIRST_COME].values()] or [1.0]
    most = max((each.slowdown for ones in keys.values() for each in ones.values()), default=1.0)
    x = log_axis(100 * min(shares), 100 * max(shares), "share of the work", " %")
    y = plain_axis(1.0, max(most, 1.1), "slowdown")
    title = "Each key: its share of the work, and its mean bounded slowdown"
    series = [
        Line(
            f"{name}: {key or '(no key)'}, {one.tasks:,} tasks",
            _style(found, name),
            [(100 * max(one.work / total, _SMALLEST), one.slowdown)],
        )
        for name, ones in keys.items()
        for key, one in ones.items()
    ]
    yield _figure(title, dots(series, x, y, title))


def _fidelity(found: Fidelity | None) -> Iterator[str]:
    if found is None or not found.waits:
        return
    yield "<section><h2>How faithful the replay is</h2>"
    yield "<p>Mean waits in seconds, really and replayed under the policy that was in force.</p>"
    head = "".join(f"<th>{each}</th>" for each in ("class", "tasks", "recorded", "replayed", "error"))
    rows = []
    for each in found.waits:
        cells = [f"{each.tasks:,}", f"{each.recorded:,.2f}", f"{each.replayed:,.2f}", shown_error(each.error)]
        numbers = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        rows.append(f"<tr><td>{escape(each.name)}</td>{numbers}</tr>")
    body = "".join(rows)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'


def _verdict(found: Study, policy: Contender) -> Iterator[str]:
    name = policy.name
    yield f"<section><h2>{escape(name)}</h2><p><code>{escape(repr(policy.policy))}</code></p>"
    reached = gain(found, name)
    if reached is not None:
        share = escape(shown_interval(reached))
        yield f"<p>It has {share} of what exact score order gains over first come in weighted mean wait.</p>"
    won = list(wins(found, name))
    for title, clear in (("Best for", True), ("Perhaps best for, but the difference may be chance", False)):
        measures = [each.measure.title for each, is_clear in won if is_clear is clear]
        if measures:
            yield f"<p>{title}: {escape('; '.join(measures))}.</p>"
    lost = sorted(losses(found, name), key=lambda each: -each.relative)[:_LOSSES]
    if not lost:
        yield "<p>It loses clearly in nothing that is measured.</p></section>"
        return
    head = "".join(f"<th>{each}</th>" for each in _COLUMNS)
    rows = "".join(map(_loss, lost))
    yield "<p>Where it loses:</p>"
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'


def _loss(found: Duel) -> str:
    measure, difference = found.measure, found.difference
    between = "-"
    if difference.low is not None and difference.high is not None:
        between = f"{shown(measure, difference.low, sign='+')} to {shown(measure, difference.high, sign='+')}"
    cells = [
        measure.title,
        shown(measure, found.own),
        shown(measure, found.other),
        shown(measure, difference.mean, sign="+"),
        between,
        found.opponent,
    ]
    titled = zip(map(escape, _COLUMNS), map(escape, cells), strict=True)
    return f"<tr>{''.join(_CELL.format(title, cell) for title, cell in titled)}</tr>"
