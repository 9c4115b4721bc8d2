"""What the demo shows: progress while it runs, on stderr, and the table at the end, on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from example_project.demo.load import FLOODER
from example_project.demo.results import Result, Waits
from example_project.demo.run import DYNAMIC, PLAIN, STATIC, Setup

#: Seconds between two lines of progress if stderr is not a terminal.
LINE_INTERVAL: Final = 3.0

#: Deadlines met: good and bad news.
GOOD: Final = 0.95
BAD: Final = 0.8


class Display:
    """Progress of the runs: a bar for each, or plain lines if stderr is not a terminal.

    Bars are drawn while :attr:`progress`, a context manager, is entered.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._total = total
        self._next_line, self._told = 0.0, 0
        self.progress = Progress(
            TextColumn(f"{{task.description:{len(STATIC.title)}}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._name = ""

    def begin(self, setup: Setup) -> None:
        """Begin the next run."""
        self._name = setup.title
        self._next_line, self._told = 0.0, 0
        self._bar = self.progress.add_task(self._name, total=self._total, state="starting")
        self._line("starting two workers" + (" and the reprioritizer" if setup.addon else ""))

    def update(self, sent: int, run: int) -> None:
        """Show how many tasks have been published and have started."""
        waiting = max(0, sent - run)
        if self._bar is not None:
            self.progress.update(self._bar, completed=run, state=f"{waiting:4} waiting")
        now = time.monotonic()
        if now >= self._next_line or (run == self._total > self._told):
            self._next_line, self._told = now + LINE_INTERVAL, run
            self._line(f"{run} of {self._total} tasks started, {waiting} waiting")

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{self._name}: {text}", soft_wrap=True)


def show(results: Mapping[Setup, Result]) -> None:
    """Print the runs side by side."""
    labels = dict.fromkeys(label for result in results.values() for label in result.classes)
    lines = [
        Text(),
        Text(f"Seconds that tasks waited while {FLOODER} flooded the queue with reports; the same load in each run."),
        Text(),
        Text(f"{'':20}" + "".join(f"{setup.title:^20}" for setup in results).rstrip(), "bold"),
        Text(f"{'task':15}{'tasks':>5}" + f"{'p50':>6}{'p95':>6}{'in time':>8}" * len(results), "bold"),
        *(_row(label, [result.classes.get(label) for result in results.values()]) for label in labels),
        Text(),
        *(_counts(setup, result) for setup, result in results.items()),
        Text(),
    ]
    if all(result.clean for result in results.values()):
        lines += map(Text, _meaning(results[PLAIN], results[STATIC], results[DYNAMIC]))
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)


def _row(label: str, waits: Iterable[Waits | None]) -> Text:
    found = list(waits)
    tasks = max(each.tasks for each in found if each is not None)
    return Text.assemble(f"{label:15}{tasks:5}", *(part for each in found for part in _cells(each)))


def _cells(waits: Waits | None) -> tuple[str | tuple[str, str], ...]:
    if waits is None:
        return (f"{'nothing ran':^20}",)
    numbers = f"{waits.p50:6.2f}{waits.p95:6.2f}"
    if waits.in_time is None:
        return numbers, f"{'-':>8}"
    style = "bold green" if waits.in_time >= GOOD else "bold red" if waits.in_time < BAD else "yellow"
    return numbers, (f"{_percent(waits.in_time):>8}", style)


def _counts(setup: Setup, result: Result) -> Text:
    counts = f"tasks sent {result.sent}, run {result.run}, lost {result.lost}, run twice {result.run_twice}"
    moves = "" if result.moves is None else f", moves {result.moves}"
    style = "" if result.clean else "bold red"
    return Text(f"{setup.title:{len(STATIC.title)}}  {counts}, in {result.seconds:.1f} s{moves}", style)


def _meaning(plain: Result, static: Result, dynamic: Result) -> Iterable[str]:
    none, fixed, moved = (result.classes["checkout"] for result in (plain, static, dynamic))
    yield (
        f"{_percent(moved.in_time)} of the checkouts started within {moved.deadline:g} s, instead of "
        f"{_percent(none.in_time)}; with static priorities {_percent(fixed.in_time)}."
    )
    others, flood = (
        [result.classes[label].p50 for result in (static, dynamic)] for label in ("report (others)", "report (flood)")
    )
    yield "Static priorities cannot tell the flood from the reports of others: half of these waited"
    yield (
        f"{others[0]:.1f} s or more, instead of {others[1]:.1f} s. The flood paid for it: its p50 is {flood[1]:.1f} s "
        f"instead of {flood[0]:.1f} s."
    )


def _percent(share: float | None) -> str:
    # Rounded down: 100 % means all of them.
    return f"{int(100 * (share or 0.0))} %"
