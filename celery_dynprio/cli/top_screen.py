"""What ``dynprio top`` shows: from what is known and what was asked for to lines of text. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final, TypeAlias

from celery_dynprio.cli.listing import row_of, titles
from celery_dynprio.cli.rendering import counted, cut, pad, seconds, table
from celery_dynprio.cli.top_state import Asked, queue_of
from celery_dynprio.message import clean
from celery_dynprio.models import HELD, place_name
from celery_dynprio.operators.results import QueueStats

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
    "said": "ansigreen",
    "asked": "bold ansiyellow",
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


def draw(asked: Asked, width: int, height: int, now: float) -> list[Line]:
    """Exactly ``height`` lines, none wider than ``width`` cells; ``now`` is Unix seconds."""
    room = room_for(asked, height)
    middle = _pane(asked, width, room) if asked.pane else _tasks(asked, width, room, now)
    lines = [*_head(asked, width, now), *islice(middle, room)]
    lines += [[("", "")]] * (height - _BOTTOM - len(lines))
    return [*lines, _foot(asked, width, now), [("dim", cut(KEYS, width))]][-height:]


def room_for(asked: Asked, height: int) -> int:
    """How many of the lines are left for tasks, their titles included, or for what is shown in their place."""
    levels = 0 if asked.known is None else len(queue_of(asked, asked.known).depths)
    head = 2 if asked.known is None else 4 + (levels + 1) // 2
    return max(height - head - _BOTTOM, 0)


def alarms(asked: Asked, now: float) -> list[str]:
    """What somebody should look after."""
    if asked.error:
        return [clean(asked.error)]
    known = asked.known
    if known is None:
        return []
    queue = queue_of(asked, known)
    found = []
    if asked.warned:
        found.append(clean(asked.warned))
    if known.stats.paused:
        found.append("paused: p resumes")
    if queue.leader is None:
        found.append("no reprioritizer leads")
    if not known.stats.workers.slots_for(queue.queue):
        found.append("no worker answers")
    late = sum(turn.task.deadline is not None and turn.task.deadline < now for turn in known.page.turns)
    if late:
        found.append(f"{counted(late, 'task')} past the deadline")
    longest = max((wait for wait in queue.oldest if wait is not None), default=0.0)
    if known.patience is not None and longest > known.patience:
        found.append(f"starving: the oldest waits for {_duration(longest)}")
    elif longest > LONG_WAIT:
        found.append(f"the oldest waits for {_duration(longest)}")
    return found


def _head(asked: Asked, width: int, now: float) -> Iterator[Line]:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    frozen = "  frozen" if asked.frozen else ""
    yield [("title", cut(f"dynprio top  {clean(asked.queue)}  {clock}{frozen}", width))]
    known = asked.known
    if known is None:
        told = clean(asked.error)
        yield [("alarm", cut(f"! {told}", width))] if told else [("", cut("reading ...", width))]
        return
    queue = queue_of(asked, known)
    leader = "nobody" if queue.leader is None else f"{clean(queue.leader.owner)} ({clean(queue.leader.kind)})"
    names = [name for name, queues in known.stats.workers.queues.items() if queue.queue in queues]
    slots = known.stats.workers.slots_for(queue.queue)
    rate = "-" if known.rate is None else f"{known.rate:.1f}"
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
    told = "; ".join(alarms(asked, now))
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


def _pane(asked: Asked, width: int, room: int) -> Iterator[Line]:
    first = asked.scroll(0, room).above  # after the terminal grew, no line is left out below
    for line in asked.pane[first:]:
        yield [("", cut(clean(line), width))]


def _tasks(asked: Asked, width: int, room: int, now: float) -> Iterator[Line]:
    turns, chosen = asked.turns(), asked.chosen()
    if chosen is None:
        yield [("dim", "no tasks are waiting" if asked.known is not None else "")]
        return
    rows = max(room - 1, 1)
    first = max(turns.index(chosen) - rows + 1, 0)
    shown = turns[first : first + rows]
    lines = table(_COLUMNS, [row_of(turn, now, several=False) for turn in shown], width)
    yield [("titles", pad(next(lines), width))]
    for turn, line in zip(shown, lines, strict=True):
        selected = turn is chosen
        yield [("selected" if selected else "", pad(line, width if selected else 0))]


def _foot(asked: Asked, width: int, now: float) -> Line:
    if asked.typing is not None:
        return [("asked", cut(f"/{asked.typing}_", width, keep_end=True))]
    if asked.question:
        return [("asked", f"{cut(clean(asked.question), width - len(_YES_NO))}{_YES_NO}"[:width])]
    if asked.said and now < asked.said_until:
        return [("said", cut(clean(asked.said), width))]
    if asked.pane:
        return [("dim", cut("Esc goes back; up, down, page up, page down: scroll", width))]
    parts = [f"sorted by {asked.sort.value}"]
    if asked.text:
        parts.append(f"tasks like {clean(asked.text)}")
    if asked.held:
        parts.append(f"only {place_name(HELD)}")
    if asked.known is not None:
        parts.append(f"{len(asked.known.page.turns):,} of {asked.known.page.matching:,} read")
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
