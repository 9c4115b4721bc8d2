"""What the demo shows: progress while it runs, on stderr, and the table at the end, on stdout."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from example_project.demo.load import FLOODER
from example_project.demo.results import Result, Waits

PLAIN: Final = "plain Celery"
ADDON: Final = "with celery_dynprio"

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
            TextColumn(f"{{task.description:{len(ADDON)}}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._name = ""

    def begin(self, name: str) -> None:
        """Begin the next run."""
        self._name = name
        self._next_line, self._told = 0.0, 0
        self._bar = self.progress.add_task(name, total=self._total, state="starting")
        self._line("starting two workers" + (" and the reprioritizer" if name == ADDON else ""))

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


def show(plain: Result, addon: Result) -> None:
    """Print the two runs side by side."""
    title = f"Seconds that tasks waited while {FLOODER} flooded the queue with reports; the same load in both runs."
    lines = [
        Text(),
        Text(title),
        Text(),
        Text(f"{'':21}  {PLAIN:^26}  {ADDON:^26}".rstrip(), "bold"),
        Text(f"{'task':15}{'tasks':>6}" + f"  {'p50':>6}{'p95':>6}{'max':>6}{'in time':>8}" * 2, "bold"),
    ]
    for label in addon.classes:
        before, after = plain.classes.get(label), addon.classes[label]
        lines.append(Text.assemble(f"{label:15}{after.tasks:6}", *_cells(before), *_cells(after)))
    lines += [Text(), *_counts(plain, addon), Text()]
    if plain.clean and addon.clean:
        lines.append(Text(_meaning(plain, addon)))
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)


def _cells(waits: Waits | None) -> tuple[str | tuple[str, str], ...]:
    if waits is None:
        return (f"  {'nothing ran':^26}",)
    numbers = f"  {waits.p50:6.2f}{waits.p95:6.2f}{waits.max:6.2f}"
    if waits.in_time is None:
        return numbers, f"{'-':>8}"
    style = "bold green" if waits.in_time >= GOOD else "bold red" if waits.in_time < BAD else "yellow"
    return numbers, (f"{_percent(waits.in_time):>8}", style)


def _counts(plain: Result, addon: Result) -> list[Text]:
    lines = []
    for name, result in ((PLAIN, plain), (ADDON, addon)):
        counts = f"tasks sent {result.sent}, run {result.run}, lost {result.lost}, run twice {result.run_twice}"
        moves = "" if result.moves is None else f", moves {result.moves}"
        lines.append(Text(f"{name:20} {counts}, in {result.seconds:.1f} s{moves}", "" if result.clean else "bold red"))
    return lines


def _meaning(plain: Result, addon: Result) -> str:
    before, after = plain.classes["checkout"], addon.classes["checkout"]
    flood = plain.classes["report (flood)"].p50, addon.classes["report (flood)"].p50
    return (
        f"{_percent(after.in_time)} of the checkouts started within {after.deadline:g} s, instead of "
        f"{_percent(before.in_time)}. The flood paid for it: its p50 is {flood[1]:.1f} s instead of {flood[0]:.1f} s."
    )


def _percent(share: float | None) -> str:
    # Rounded down: 100 % means all of them.
    return f"{int(100 * (share or 0.0))} %"
