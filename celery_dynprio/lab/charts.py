"""Charts as inline SVG, drawn for a phone's width and scaled up. Colours come from the page's CSS, by class names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 10, 34
_HEIGHT: Final = 230
_ROW: Final = 30


class Line(NamedTuple):
    """A series of points, and the CSS class that gives its colour."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


class Bar(NamedTuple):
    """A value with its interval, if there is one."""

    name: str
    style: str
    value: float
    low: float | None
    high: float | None
    shown: str


class Axis(NamedTuple):
    """A scale from values to [0, 1], with its ticks."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    title: str


def lines(series: Sequence[Line], x: Axis, y: Axis, label: str) -> str:
    """A chart of lines."""
    drawn = [*_frame(x, y)]
    for each in series:
        points = " ".join(f"{_x(x.place(at)):.1f},{_y(y.place(value)):.1f}" for at, value in each.points)
        drawn.append(
            f'<polyline class="line {each.style}" points="{points}"><title>{escape(each.name)}</title></polyline>'
        )
    return _svg(drawn, _HEIGHT, label)


def dots(series: Sequence[Line], x: Axis, y: Axis, label: str) -> str:
    """A chart of points, where each series has a colour."""
    drawn = [*_frame(x, y)]
    for each in series:
        for at, value in each.points:
            place = f'cx="{_x(x.place(at)):.1f}" cy="{_y(y.place(value)):.1f}"'
            drawn.append(
                f'<circle class="dot {each.style}" {place} r="3.5"><title>{escape(each.name)}</title></circle>'
            )
    return _svg(drawn, _HEIGHT, label)


def bars(rows: Sequence[Bar], label: str) -> str:
    """Horizontal bars from 0 on, each with its name above, its value, and a line for its interval."""
    most = max((max(row.value, row.high or 0.0) for row in rows), default=0.0) or 1.0
    room = WIDTH - 70
    drawn = []
    for number, row in enumerate(rows):
        top = number * _ROW
        end = max(row.value, 0.0) / most * room
        drawn += [
            f'<text class="name" x="0" y="{top + 10}">{escape(row.name)}</text>',
            f'<rect class="bar {row.style}" x="0" y="{top + 14}" width="{end:.1f}" height="8" rx="1"/>',
            f'<text class="value" x="{WIDTH}" y="{top + 22}">{escape(row.shown)}</text>',
        ]
        if row.low is not None and row.high is not None:
            low, high = (min(max(each, 0.0) / most, 1.0) * room for each in (row.low, row.high))
            drawn.append(f'<path class="whisker" d="M{low:.1f} {top + 18}H{high:.1f}m0 -3v6M{low:.1f} {top + 15}v6"/>')
    return _svg(drawn, len(rows) * _ROW + 4, label)


def seconds_axis(most: float) -> Axis:
    """Seconds, on a scale that has a 0 and shows long and short waits alike: log(1 + t)."""
    reach = math.log1p(max(most, 1.0))
    marks = [
        (0.0, "0"),
        (1.0, "1 s"),
        (10.0, "10 s"),
        (60.0, "1 min"),
        (600.0, "10 min"),
        (3600.0, "1 h"),
        (36000.0, "10 h"),
    ]
    return Axis(lambda value: math.log1p(max(value, 0.0)) / reach, [each for each in marks if each[0] <= most], "wait")


def share_axis(title: str) -> Axis:
    """A share of all, 0 to 1."""
    return Axis(lambda value: value, [(each / 4, f"{each * 25} %") for each in range(5)], title)


def plain_axis(least: float, most: float, title: str, unit: str = "") -> Axis:
    """Numbers from ``least`` to ``most``, evenly."""
    span = most - least or 1.0
    step = _step(span / 4)
    first = math.ceil(least / step) * step
    ticks = [first + number * step for number in range(int((most - first) / step + 1e-9) + 1)]
    return Axis(lambda value: (value - least) / span, [(each, f"{each:g}{unit}") for each in ticks], title)


def log_axis(least: float, most: float, title: str, unit: str = "") -> Axis:
    """Numbers above 0 from ``least`` to ``most``, each ten times the one before as far from it."""
    low, high = math.floor(math.log10(least)), math.log10(most)
    span = high - low or 1.0
    ticks = [10.0**power for power in range(low, math.floor(high) + 1)]
    return Axis(lambda value: (math.log10(value) - low) / span, [(each, f"{each:g}{unit}") for each in ticks], title)


def _step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= least * (1 - 1e-9))


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value, text in y.ticks:
        place = _y(y.place(value))
        yield f'<path class="grid" d="M{_LEFT} {place:.1f}H{right}"/>'
        yield f'<text class="tick end" x="{_LEFT - 5}" y="{place + 4:.1f}">{escape(text)}</text>'
    for value, text in x.ticks:
        yield f'<text class="tick middle" x="{_x(x.place(value)):.1f}" y="{bottom + 15}">{escape(text)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
    yield f'<text class="tick middle" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 3}">{escape(x.title)}</text>'


def _x(place: float) -> float:
    return _LEFT + min(max(place, 0.0), 1.0) * (WIDTH - _LEFT - _RIGHT)


def _y(place: float) -> float:
    return _HEIGHT - _BOTTOM - min(max(place, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def _svg(drawn: Iterable[str], height: float, label: str) -> str:
    inner = "".join(drawn)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{inner}</svg>'
