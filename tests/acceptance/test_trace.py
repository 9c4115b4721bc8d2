"""One request through three workers, one task of which fails: what the logs tell of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from celery_dynprio import tracing
from celery_dynprio.web import trace_flask
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

PROJECT: Final = """
    import json
    from celery import chord, signals
    from celery.utils.log import get_task_logger
    from celery_dynprio import DynPrio, propagation, tracing

    dynprio = DynPrio(app)
    propagation.connect(app, lambda: dynprio.settings)
    logger = get_task_logger(__name__)

    @signals.task_failure.connect(weak=False)
    def tell(sender=None, **_):
        span = sender.request.dynprio_span
        told = [[each.name, each.id, each.host] for each in span.lineage]
        logger.error("failed in trace %s: %s", span.trace_id, json.dumps(told))

    @app.task(name="shop.a")
    def a():
        logger.info("a in trace %s", tracing.current().trace_id)
        chord([b.s(n) for n in range(2)])(c.s())

    @app.task(name="shop.b")
    def b(n):
        logger.info("b in trace %s", tracing.current().trace_id)
        return n

    @app.task(name="shop.c")
    def c(numbers):
        logger.info("c in trace %s", tracing.current().trace_id)
        raise ValueError(f"no total of {numbers}")

    app.conf.task_routes = {"shop.a": {"queue": "one"}, "shop.b": {"queue": "two"}, "shop.c": {"queue": "three"}}
"""

#: Workers, each with the queue of its name, and their pools.
WORKERS: Final = {"one": "prefork", "two": "threads", "three": "solo"}

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"


def make_web(module: Any, log: Path) -> Any:
    """The web application, which writes a log of its own."""
    app = pytest.importorskip("flask").Flask("web")

    def order() -> str:
        span = tracing.current()
        assert span is not None
        with log.open("a") as lines:
            lines.write(f"order in trace {span.trace_id}\n")
        return str(module.a.delay().id)

    app.add_url_rule("/order", view_func=order)
    trace_flask(app)
    return app


def test_one_request_is_followed_through_three_workers(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, tmp_path: Path
) -> None:
    project = make_project(valkey.url, PROJECT)
    nodes = {name: start_worker(project, name, pool=pool, args=["-Q", name]) for name, pool in WORKERS.items()}
    web_log = tmp_path / "web.log"
    web = make_web(project.load(), web_log).test_client()
    first_id = web.get("/order", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}).text
    web.get("/order")  # another request, of which nothing may be found
    wait_until(lambda: nodes["three"].logs().count("failed in trace") == 2)

    # One grep over all logs.
    logs = {"web": web_log.read_text(), **{name: node.logs() for name, node in nodes.items()}}
    found = {name: [line for line in log.splitlines() if TRACE in line] for name, log in logs.items()}
    assert {name: len(lines) for name, lines in found.items()} == {"web": 1, "one": 1, "two": 2, "three": 2}

    lineage = json.loads(found["three"][-1].partition(f"{TRACE}: ")[2])
    hosts = [nodes[name].hostname() for name in ("one", "two")]
    assert [[name, host] for name, _, host in lineage] == [["shop.a", hosts[0]], ["shop.b", hosts[1]]]
    assert lineage[0][1] == first_id
