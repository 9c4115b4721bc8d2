"""What ``dynprio top`` shows: from the figures and the operator's view of them to lines of text. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final, TypeAlias

from celery_dynprio.cli.listing import row_of, titles
from celery_dynprio.cli.rendering import counted, cut, pad, seconds, table
from celery_dynprio.cli.top.state import View, queue_of
from celery_dynprio.models import HELD, place_name
from celery_dynprio.operators.results import QueueStats
from celery_dynprio.untrusted import clean

#: A piece of a line and how it looks: a class of :data:`STYLES`, or "".
Piece: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Piece]

#: How things look; readable without any of it.
STYLES: Final = {
    "title": "bold",
    "dim": "ansibrightblack",
    "bar": "ansicyan",
    "alarm": "bold ansired",
    "titles": "reverse",
    "selected": "reverse bold",
    "message": "ansigreen",
    "question": "bold ansiyellow",
}

_YES_NO: Final = " (y/n)"

KEYS: Final = "q quit  ? help  b bump  h hold  r release  c cancel  e explain  / filter  s sort"

HELP: Final = """\
b  bump: the selected task runs next   up, down, page up, page down: select
h  hold it                             home, end: the first, the last
r  release it                          s  sort: turn, score, wait, deadline, key
c  cancel it (asks)                    /  filter by task name, Enter ends it
e  explain it                          H  held tasks only, or all
p  pause all moves, or resume (asks)   Tab  the next managed queue
q  quit                                space  freeze the screen, or go on
?  this help                           Esc  leave what is open, or the filter"""

#: A longer wait, in seconds, is an alarm under a policy that does not tell its patience.
LONG_WAIT: Final = 3600.0

_BAR: Final = 12

#: Lines below the tasks.
_BOTTOM: Final = 2

#: As of a list, but here task and key are worth more than the id, which no one has to type.
_LEAST: Final = {"task": 24, "key": 12}
_COLUMNS: Final = tuple(
    replace(column, least=_LEAST.get(column.title, column.least)) for column in titles(several=False)
)


def screen_lines(view: View, width: int, height: int, now: float) -> list[Line]:
    """Exactly ``height`` lines, none wider than ``width`` cells; ``now`` is Unix seconds."""
    room = room_for(view, height)
    middle = _pane(view, width, room) if view.pane else _tasks(view, width, room, now)
    lines = [*_head(view, width, now), *islice(middle, room)]
    lines += [[("", "")]] * (height - _BOTTOM - len(lines))
    return [*lines, _foot(view, width, now), [("dim", cut(KEYS, width))]][-height:]


def room_for(view: View, height: int) -> int:
    """How many of the lines are left for tasks, their titles included, or for what is shown in their place."""
    levels = 0 if view.figures is None else len(queue_of(view, view.figures).depths)
    head = 2 if view.figures is None else 4 + (levels + 1) // 2
    return max(height - head - _BOTTOM, 0)


def alarms(view: View, now: float) -> list[str]:
    """What somebody should look after."""
    if view.error:
        return [clean(view.error)]
    figures = view.figures
    if figures is None:
        return []
    queue = queue_of(view, figures)
    found = []
    if view.warned:
        found.append(clean(view.warned))
    if figures.stats.paused:
        found.append("paused: p resumes")
    if queue.leader is None:
        found.append("no reprioritizer leads")
    if not figures.stats.workers.slots_for(queue.queue):
        found.append("no worker answers")
    late = sum(turn.task.deadline is not None and turn.task.deadline < now for turn in figures.listing.turns)
    if late:
        found.append(f"{counted(late, 'task')} past the deadline")
    longest = max((wait for wait in queue.oldest if wait is not None), default=0.0)
    if figures.patience is not None and longest > figures.patience:
        found.append(f"starving: the oldest waits for {_duration(longest)}")
    elif longest > LONG_WAIT:
        found.append(f"the oldest waits for {_duration(longest)}")
    return found


def _head(view: View, width: int, now: float) -> Iterator[Line]:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    frozen = "  frozen" if view.frozen else ""
    yield [("title", cut(f"dynprio top  {clean(view.queue)}  {clock}{frozen}", width))]
    figures = view.figures
    if figures is None:
        told = clean(view.error)
        yield [("alarm", cut(f"! {told}", width))] if told else [("", cut("reading ...", width))]
        return
    queue = queue_of(view, figures)
    leader = "nobody" if queue.leader is None else f"{clean(queue.leader.owner)} ({clean(queue.leader.kind)})"
    names = [name for name, queues in figures.stats.workers.queues.items() if queue.queue in queues]
    slots = figures.stats.workers.slots_for(queue.queue)
    rate = "-" if figures.rate is None else f"{figures.rate:.1f}"
    yield [
        (
            "",
            cut(
                f"front {sum(queue.depths):,}  parked {queue.overflow:,}  held {queue.held:,}  "
                f"{counted(len(names), 'worker')}, {counted(slots, 'slot')}  moves/s {rate}",
                width,
            ),
        )
    ]
    yield [("", cut(f"led by {leader}", width))]
    yield from _levels(queue, width)
    told = "; ".join(alarms(view, now))
    yield [("alarm", cut(f"! {told}", width) if told else "")]


def _levels(queue: QueueStats, width: int) -> Iterator[Line]:
    """Two levels a line: how many wait, and the longest wait in seconds."""
    most = max([*queue.depths, 1])
    half = (len(queue.depths) + 1) // 2
    column = width // 2
    for level in range(half):
        line: Line = []
        for each in range(level, len(queue.depths), half):
            depth = queue.depths[each]
            bar = "█" * max(depth * _BAR // most, min(depth, 1))
            line += _clipped(
                [
                    ("", f"P{each} "),
                    ("bar", f"{bar:<{_BAR}}"),
                    ("", f" {depth:>9,} {seconds(queue.oldest[each]):>9} s".ljust(column)),
                ],
                column,
            )
        yield line


def _pane(view: View, width: int, room: int) -> Iterator[Line]:
    first = view.scroll(0, room).above  # after the terminal grew, no line is left out below
    for line in view.pane[first:]:
        yield [("", cut(clean(line), width))]


def _tasks(view: View, width: int, room: int, now: float) -> Iterator[Line]:
    turns, chosen = view.turns(), view.chosen()
    if chosen is None:
        yield [("dim", "no tasks are waiting" if view.figures is not None else "")]
        return
    rows = max(room - 1, 1)
    first = max(turns.index(chosen) - rows + 1, 0)
    shown = turns[first : first + rows]
    lines = table(_COLUMNS, [row_of(turn, now, several=False) for turn in shown], width)
    yield [("titles", pad(next(lines), width))]
    for turn, line in zip(shown, lines, strict=True):
        selected = turn is chosen
        yield [("selected" if selected else "", pad(line, width if selected else 0))]


def _foot(view: View, width: int, now: float) -> Line:
    if view.typing is not None:
        return [("question", cut(f"/{view.typing}_", width, keep_end=True))]
    if view.question:
        return [("question", f"{cut(clean(view.question), width - len(_YES_NO))}{_YES_NO}"[:width])]
    if view.message and now < view.message_until:
        return [("message", cut(clean(view.message), width))]
    if view.pane:
        return [("dim", cut("Esc goes back; up, down, page up, page down: scroll", width))]
    parts = [f"sorted by {view.sort.value}"]
    if view.text:
        parts.append(f"tasks like {clean(view.text)}")
    if view.held:
        parts.append(f"only {place_name(HELD)}")
    if view.figures is not None:
        parts.append(f"{len(view.figures.listing.turns):,} of {view.figures.listing.matching:,} read")
    return [("dim", cut(", ".join(parts), width))]


def _clipped(line: Line, width: int) -> Line:
    """Pieces without wide characters, up to a width."""
    clipped: Line = []
    for style, text in line:
        clipped.append((style, text[: max(width, 0)]))
        width -= len(text)
    return clipped


def _duration(value: float) -> str:
    return f"{value:.0f} s" if value < LONG_WAIT else f"{value / 3600:.1f} h"
