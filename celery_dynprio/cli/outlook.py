"""How ``dynprio policy --try`` shows what comes next under two policies. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.cli.rendering import NOTHING, Column, counted, seconds, seconds_with_unit, table

if TYPE_CHECKING:
    from celery_dynprio.engine.draws import Range
    from celery_dynprio.lab.outlook import Outlook, Path, Starts

_TIMES: Final = (Column("now", right=True), Column("80 %"), Column("then", right=True), Column("80 %"))
_PATHS: Final = (
    *_TIMES,
    Column("key", least=6),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
)


def outlook_lines(found: Outlook, limit: int | None, width: int | None) -> Iterator[str]:
    """The lines that show an outlook: at most ``limit`` names, keys, and tasks each way; None for all."""
    if found.last is None:
        yield "Nothing was played: no task waits for its turn."
        return
    yield from _heading(found)
    for title, groups in (("task", found.names), ("key", found.keys)):
        yield ""
        columns = (*_TIMES, Column("tasks", right=True), Column(title, least=12, keep_end=True))
        rows = [[*_times(each.starts), f"{each.tasks:,}", each.name or NOTHING] for each in groups[:limit]]
        yield from table(columns, rows, width)
    for title, paths in zip(("sooner", "later"), _parted(found.paths), strict=True):
        if paths:
            yield ""
            yield f"{counted(len(paths), 'task')} would start {title}, most of all:"
            rows = [
                [*_times(starts), turn.task.key or NOTHING, turn.task.name, turn.task.id]
                for turn, starts in paths[:limit]
            ]
            yield from table(_PATHS, rows, width)


def _heading(found: Outlook) -> Iterator[str]:
    last = found.last
    played = f"Played {counted(len(found.paths), 'task')} on {counted(found.slots, 'slot')}"
    left_out = f"; {found.left_out:,} others that are further back were not" if found.left_out else ""
    yield f"{played}, in {found.futures:,} possible futures with a tick every {found.tick:.3g} s{left_out}."
    yield "Run times are as learned, and nothing new arrives."
    yield "Seconds until the start with the policy in force (now) and the other one (then): median and 80 % range."
    if last is not None:
        ends = [f"{seconds_with_unit(each.median)} ({_between(each)})" for each in (last.own, last.tried)]
        yield f"The last one starts in {ends[0]} now, in {ends[1]} then."


def outlook_with_paths(found: Outlook, limit: int | None) -> dict[str, Any]:
    """An outlook for programs; at most ``limit`` of each list, None for all."""
    from celery_dynprio.lab.plain import outlook_object, path_objects  # noqa: PLC0415 - see the package

    sooner, later = _parted(found.paths)
    moved = {"sooner": path_objects(sooner[:limit]), "later": path_objects(later[:limit])}
    return {**outlook_object(found, limit), **moved}


def _parted(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Those that start sooner and those that start later, the greatest difference first."""
    ordered = sorted(paths, key=lambda path: (-path.starts.gain, path.turn.task.id))
    return [each for each in ordered if each.starts.gain > 0], [each for each in ordered[::-1] if each.starts.gain < 0]


def _times(starts: Starts) -> list[str]:
    own, tried = starts
    return [seconds(own.median), _between(own), seconds(tried.median), _between(tried)]


def _between(found: Range) -> str:
    return f"{seconds(found.low)} to {seconds(found.high)}"
