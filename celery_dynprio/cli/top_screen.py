"""What ``dynprio top`` shows: from what is known and what was asked for to lines of text. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import Final, TypeAlias

from celery_dynprio.cli.listing import row_of, titles
from celery_dynprio.cli.rendering import counted, place_name, seconds, table
from celery_dynprio.message import clean
from celery_dynprio.ordering import Turn
from celery_dynprio.views import Page, QueueStats, Stats

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

KEYS: Final = "q quit  ? help  b bump  h hold  r release  c cancel  e explain  / filter  s sort"

HELP: Final = """\
b  bump: the selected task runs next     up, down, page up, page down: select
h  hold it                               home, end: the first, the last
r  release it                            s  sort: turn, score, wait, deadline, key
c  cancel it (asks)                      /  filter by task name, Enter ends it
e  explain it                            H  held tasks only, or all
p  pause all moves, or resume (asks)     Tab  the next managed queue
q  quit                                  space  freeze the screen, or go on
?  this help                             Esc  leave what is open, or the filter"""

#: A deadline that has passed, and a wait of so many seconds, are alarms.
LONG_WAIT: Final = 3600.0

_BAR: Final = 12

#: As of a list, but here task and key are worth more than the id, which no one has to type.
_LEAST: Final = {"task": 24, "key": 12}
_COLUMNS: Final = tuple(
    replace(column, least=_LEAST.get(column.title, column.least)) for column in titles(several=False)
)


class Sort(Enum):
    """By what the tasks are sorted."""

    TURN = "turn"
    SCORE = "score"
    WAIT = "wait"
    DEADLINE = "deadline"
    KEY = "key"


_SORTS: Final[dict[Sort, Callable[[Turn], tuple[object, ...]]]] = {
    Sort.SCORE: lambda turn: (-turn.score,),
    Sort.WAIT: lambda turn: (-turn.waited,),
    Sort.DEADLINE: lambda turn: (turn.task.deadline is None, turn.task.deadline or 0.0),
    Sort.KEY: lambda turn: (turn.task.key is None, turn.task.key or ""),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What was read of the broker last."""

    stats: Stats
    page: Page
    #: Moves a second, None until two reads tell.
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator looks at."""

    queue: str
    known: Known | None = None
    #: What went wrong with the last read; "" if it went well.
    error: str = ""
    sort: Sort = Sort.TURN
    #: Part of a task's name, or a pattern.
    text: str = ""
    held: bool = False
    frozen: bool = False
    #: The id of the selected task; "" for the first one.
    selected: str = ""
    #: A question that waits for y or n; a text that is being typed; what the last operation said.
    question: str = ""
    typing: str | None = None
    said: str = ""
    #: Lines shown in place of the tasks, from the first one that is in sight on: an explanation, or the help.
    pane: Sequence[str] = ()

    def turns(self) -> list[Turn]:
        """The tasks in the order in which they are shown."""
        turns = [] if self.known is None else list(self.known.page.turns)
        return turns if self.sort is Sort.TURN else sorted(turns, key=_SORTS[self.sort])

    def chosen(self) -> Turn | None:
        """The selected task; None if there is none at all."""
        turns = self.turns()
        return next((turn for turn in turns if turn.task.id == self.selected), turns[0] if turns else None)

    def step(self, by: int) -> Asked:
        """Select another one, so many further on."""
        turns, chosen = self.turns(), self.chosen()
        if chosen is None:
            return self
        index = min(max(turns.index(chosen) + by, 0), len(turns) - 1)
        return replace(self, selected=turns[index].task.id)


def draw(asked: Asked, width: int, height: int, now: float) -> list[Line]:
    """Exactly ``height`` lines, none wider than ``width`` characters; ``now`` is Unix seconds."""
    top = list(_head(asked, width, now))
    bottom: list[Line] = [_foot(asked, width), [("dim", _fit(KEYS, width))]]
    room = max(height - len(top) - len(bottom), 0)
    middle: list[Line] = [[("", _fit(clean(line), width))] for line in asked.pane] or list(
        _tasks(asked, width, room, now)
    )
    lines = [*top, *islice(middle, room)]
    lines += [[("", "")]] * (height - len(bottom) - len(lines))
    return [*lines, *bottom][-height:] if height < len(top) + len(bottom) else [*lines, *bottom]


def alarms(asked: Asked, now: float) -> list[str]:
    """What somebody should look after."""
    if asked.error:
        return [f"the broker does not answer: {asked.error}"]
    known = asked.known
    if known is None:
        return []
    queue = queue_of(asked, known)
    found = []
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
    if longest > LONG_WAIT:
        found.append(f"the oldest waits for {longest / 3600:.1f} h")
    return found


def queue_of(asked: Asked, known: Known) -> QueueStats:
    """The figures of the queue that is looked at."""
    return next(queue for queue in known.stats.queues if queue.queue == asked.queue)


def _head(asked: Asked, width: int, now: float) -> Iterator[Line]:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    frozen = "  frozen" if asked.frozen else ""
    yield [("title", _fit(f"dynprio top  {clean(asked.queue)}  {clock}{frozen}", width))]
    known = asked.known
    if known is None:
        yield [("", _fit(asked.error or "reading ...", width))]
        return
    queue = queue_of(asked, known)
    leader = "nobody" if queue.leader is None else f"{clean(queue.leader.owner)} ({clean(queue.leader.kind)})"
    names = [name for name, queues in known.stats.workers.queues.items() if queue.queue in queues]
    slots = known.stats.workers.slots_for(queue.queue)
    rate = "-" if known.rate is None else f"{known.rate:.1f}"
    yield [
        (
            "",
            _fit(
                f"front {sum(queue.depths):,}  parked {queue.overflow:,}  held {queue.held:,}  "
                f"{counted(len(names), 'worker')}, {counted(slots, 'slot')}  moves/s {rate}",
                width,
            ),
        )
    ]
    yield [("", _fit(f"led by {leader}", width))]
    yield from _levels(queue, width)
    told = "; ".join(alarms(asked, now))
    yield [("alarm", _fit(f"! {told}", width) if told else "")]


def _levels(queue: QueueStats, width: int) -> Iterator[Line]:
    """Two levels a line: how many wait, and the longest wait in seconds."""
    most = max([*queue.depths, 1])
    half = (len(queue.depths) + 1) // 2
    column = width // 2
    for level in range(half):
        line: Line = []
        for each in (level, level + half):
            if each < len(queue.depths):
                depth = queue.depths[each]
                bar = "█" * max(depth * _BAR // most, min(depth, 1))
                figures = f" {depth:>9,} {seconds(queue.oldest[each]):>9} s"
                line += [
                    ("", _fit(f"P{each} ", column)),
                    ("bar", f"{bar:<{_BAR}}"),
                    ("", figures.ljust(column - _BAR - 3)[: column - _BAR - 3]),
                ]
        yield line


def _tasks(asked: Asked, width: int, room: int, now: float) -> Iterator[Line]:
    turns, chosen = asked.turns(), asked.chosen()
    if chosen is None:
        yield [("dim", "nothing waits here" if asked.known is not None else "")]
        return
    rows = max(room - 1, 1)
    first = max(turns.index(chosen) - rows + 1, 0)
    shown = turns[first : first + rows]
    lines = table(_COLUMNS, [row_of(turn, now, several=False) for turn in shown], width)
    yield [("titles", _fit(next(lines), width).ljust(width))]
    for turn, line in zip(shown, lines, strict=True):
        selected = turn is chosen
        yield [("selected" if selected else "", _fit(line, width).ljust(width if selected else 0))]


def _foot(asked: Asked, width: int) -> Line:
    if asked.typing is not None:
        return [("asked", _fit(f"/{asked.typing}_", width))]
    if asked.question:
        return [("asked", _fit(f"{asked.question} (y/n)", width))]
    if asked.said:
        return [("said", _fit(asked.said, width))]
    parts = [f"sorted by {asked.sort.value}"]
    if asked.text:
        parts.append(f"tasks like {clean(asked.text)}")
    if asked.held:
        parts.append(f"only {place_name(-2)}")
    if asked.known is not None:
        parts.append(f"{len(asked.known.page.turns):,} of {asked.known.page.matching:,} read")
    return [("dim", _fit(", ".join(parts), width))]


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"[:width]
