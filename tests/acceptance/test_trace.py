"""One request through three workers, one task of which fails: what the logs and ``dynprio trace`` tell of it."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from celery_dynprio.logs import TextFormatter, TraceFilter
from celery_dynprio.web import trace_flask
from tests.conftest import MakeProject, StartCelery
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database

PROJECT: Final = """
    from celery import chord
    from celery.utils.log import get_task_logger
    from celery_dynprio import DynPrio, dynprio_task

    app.conf.update(dynprio_queues=["orders", "pages", "totals"], dynprio_log_format="text")
    app.conf.task_routes = {"shop.a": "orders", "shop.b": "pages", "shop.c": "totals"}
    app.conf.dynprio_embedded = False
    dynprio = DynPrio(app)
    logger = get_task_logger(__name__)

    @dynprio_task(app=app, name="shop.a", weight=5)
    def a():
        logger.info("two pages are needed")
        chord(b.s(n) for n in range(2))(c.s())

    @dynprio_task(app=app, name="shop.b")
    def b(n):
        logger.info("page %d is printed", n)
        return n

    @dynprio_task(app=app, name="shop.c")
    def c(numbers):
        raise ValueError(f"no total of {sorted(numbers)}")
"""

#: Workers, each with its queue and its pool.
WORKERS: Final = {"one": ("orders", "prefork"), "two": ("pages", "threads"), "three": ("totals", "prefork")}

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"

UUID: Final = "[0-9a-f-]{36}"


@pytest.fixture
def web_log(tmp_path: Path) -> Iterator[Path]:
    """The log of the web application."""
    path = tmp_path / "web.log"
    handler = logging.FileHandler(path)
    handler.addFilter(TraceFilter())
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("web")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield path
    logger.removeHandler(handler)
    handler.close()


def make_web(module: Any) -> Any:
    """The web application."""
    app = pytest.importorskip("flask").Flask("web")

    def order() -> str:
        logging.getLogger("web").info("an order came in")
        return str(module.a.delay().id)

    app.add_url_rule("/order", view_func=order)
    trace_flask(app)
    return app


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, PROJECT)


def test_one_request_is_followed_through_three_workers(
    project: Project, start_celery: StartCelery, web_log: Path
) -> None:
    hosts, logs = {}, {"web": web_log}
    for name, (queue, pool) in WORKERS.items():
        logs[name] = project.directory / f"{name}.worker.log"
        hosts[name] = f"{name}@{socket.gethostname()}"
        options = [f"--hostname={hosts[name]}", f"--pool={pool}", "-c", "2", "-Q", queue, "-l", "INFO"]
        start_celery(project, "worker", *options, f"--logfile={logs[name]}", name=name)
    for log in logs.values():
        wait_until(lambda log=log: log == web_log or (log.exists() and "ready." in log.read_text()), 60)  # type: ignore[misc]
    web = make_web(project.load()).test_client()
    root = web.get("/order", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}).text
    web.get("/order")  # another request, of which nothing may be found
    # The last that each worker says of both requests.
    for name, last, times in (
        ("one", "succeeded in", 2),
        ("two", "succeeded in", 4),
        ("three", "raised unexpected", 2),
    ):
        wait_until(lambda log=logs[name], last=last, times=times: log.read_text().count(last) == times)  # type: ignore[misc]

    # One grep over the three files and the web log gives the whole story, in each its part.
    found = subprocess.run(["grep", TRACE, *logs.values()], capture_output=True, text=True, check=True).stdout
    story = {name: [line for line in found.splitlines() if line.startswith(f"{path}:")] for name, path in logs.items()}
    for name, said in {
        "web": ["an order came in"],
        "one": [rf"shop\.a\[{root}\] received", "two pages are needed", rf"shop\.a\[{root}\] succeeded"],
        "two": ["shop.b.* received", "page 0 is printed", "page 1 is printed", "shop.b.* succeeded"],
        "three": ["shop.c.* received", "shop.c.* failed for good", "shop.c.* raised unexpected: ValueError"],
    }.items():
        for text in said:
            assert any(re.search(text, line) for line in story[name]), f"{text} in {story[name]}"

    # The failure record names every ancestor with its worker.
    first = next(n for n, line in enumerate(story["three"]) if "failed for good" in line)
    assert "ValueError: no total of [0, 1]" in story["three"][first]
    chain = "\n".join(story["three"][first + 1 : first + 4])
    steps = [rf"shop\.a\[{root}\] on {hosts['one']}", rf"shop\.b\[{UUID}\] on {hosts['two']}"]
    expected = r", P\d, waited \d+\.\d+ s, ran .*\n.*".join([*steps, rf"shop\.c\[{UUID}\] on {hosts['three']}"])
    assert re.search(expected, chain), chain

    # And the tree has all four runs.
    shown: list[str] = []

    def drawn() -> bool:
        node = start_celery(project, "dynprio", "trace", root, name=f"trace {len(shown)}")
        assert node.wait(60) in {0, 1}
        shown.append(node.logs())
        return "1 FAILURE, 3 SUCCESS" in shown[-1]

    wait_until(drawn, message="the tree is complete")
    head, a, *below = shown[-1].splitlines()
    assert head == f"trace {TRACE}: 4 runs on 3 workers, 1 FAILURE, 3 SUCCESS"
    assert re.match(rf"SUCCESS  shop\.a\[{root}\] on {hosts['one']}, queue orders, P\d, waited .* s, ran .* s$", a)
    assert sum(f"on {hosts['two']}, queue pages" in line for line in below) == 2
    assert any(re.match(rf"FAILURE  .*└─ shop\.c\[{UUID}\] on {hosts['three']}, queue totals", line) for line in below)
    assert any(line.endswith("ValueError: no total of [0, 1]") for line in below)
