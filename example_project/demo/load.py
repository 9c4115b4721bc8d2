"""The load of the demo: what arrives when. The same in each run, as the random numbers have a fixed seed.

``python -m example_project.demo.load APP [SEED]`` publishes it; another seed is another day of the shop.

Four worker processes can do about 80 tasks a second. One tenant asks for 700 report pages in two bursts, which is nine
seconds of all that the workers can do, while orders and the other tenants' reports go on arriving.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

#: The tenant that floods the queue.
FLOODER: Final = "megacorp"

#: Tasks that follow from one arrival of a kind.
TASKS: Final = {"order": 3, "report": 1, "reindex": 1}

#: Seconds in which orders and small reports arrive, and how many of them a second.
ORDERS: Final = (1.0, 11.0, 5)
REPORTS: Final = (0.0, 11.0, 4)

#: Bursts of the flood: when they begin and how many pages they are; each takes two seconds.
BURSTS: Final = ((0.5, 450), (5.0, 250))
BURST_SECONDS: Final = 2.0

#: Parts of the search index to rebuild, and the seconds in which they are asked for.
SHARDS: Final = 40
NIGHT: Final = (0.0, 4.0)


class Arrival(NamedTuple):
    """One request to the shop."""

    #: Seconds from the beginning.
    at: float
    kind: str
    tenant: str
    number: int


#: The seed of the demo.
SEED: Final = 2


def arrivals(seed: int = SEED) -> list[Arrival]:
    """Return all arrivals, the earliest first."""
    return sorted(_arrivals(random.Random(seed)))


def _arrivals(chance: random.Random) -> Iterator[Arrival]:
    for shard in range(SHARDS):
        yield Arrival(chance.uniform(*NIGHT), "reindex", "", shard)
    for start, pages in BURSTS:
        for page in range(pages):
            yield Arrival(start + BURST_SECONDS * page / pages, "report", FLOODER, page)
    for kind, (start, end, rate) in {"order": ORDERS, "report": REPORTS}.items():
        for number in range(round(rate * (end - start))):
            yield Arrival(chance.uniform(start, end), kind, f"tenant {chance.randint(1, 8)}", number)


def expected() -> int:
    """Return the total number of tasks."""
    return sum(TASKS[arrival.kind] for arrival in arrivals())


def publish(seed: int) -> None:
    """Publish everything when its time comes, as the shop's web server would."""
    from example_project import tasks  # noqa: PLC0415 - workers load this module before the app

    start = time.monotonic()
    for arrival in arrivals(seed):
        time.sleep(max(0.0, start + arrival.at - time.monotonic()))
        if arrival.kind == "order":
            tasks.order(arrival.tenant, arrival.number)
        elif arrival.kind == "report":
            tasks.report.delay(arrival.tenant, arrival.number)
        else:
            tasks.reindex.delay(arrival.number)


if __name__ == "__main__":
    for module in (sys.argv[1], "example_project.demo.recorder"):
        importlib.import_module(module)
    publish(int(sys.argv[2]) if len(sys.argv) > 2 else SEED)  # noqa: PLR2004 - the program, the app, the seed
