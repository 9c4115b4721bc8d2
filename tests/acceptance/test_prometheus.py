"""A real Prometheus that scrapes real ``dynprio run`` of a real project, with the alert rules of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.processes import Process, free_port, wait_until
from tests.prometheus import ALERTS, PrometheusServer, queries
from tests.servers import Database

BODY = """
    from celery_dynprio import DynPrio, Objective, dynprio_task

    app.conf.update(dynprio_embedded=False, dynprio_interval=0.2, dynprio_lease_ttl=2.0, task_ignore_result=True)
    app.conf.dynprio_objectives = [Objective("work", "*.work", within=3600)]
    dynprio = DynPrio(app)

    @dynprio_task(app=app, key="customer", deadline=0.5)
    def work(customer):
        return customer
"""


def brisk() -> str:
    """The rules of the documentation, with a second where they wait for minutes."""
    rules = re.sub(r"for: \w+", "for: 1s", ALERTS.read_text())
    assert "oldest_wait_seconds) > 900" in rules
    return rules.replace("oldest_wait_seconds) > 900", "oldest_wait_seconds) > 1").replace("[10m]", "[1m]")


def test_starvation_fires_and_resolves_and_every_panel_shows_something(  # noqa: PLR0917 - fixtures
    valkey: Database,
    make_project: MakeProject,
    start_celery: StartCelery,
    start_worker: StartWorker,
    started: list[Process],
    tmp_path: Path,
) -> None:
    ports = [free_port(), free_port()]
    conf = {"dynprio_metrics_port": ports[0], "dynprio_events": True}
    project = make_project(valkey.url, BODY, conf=conf)
    prometheus = PrometheusServer(tmp_path / "prometheus", ports, brisk())
    started.append(prometheus)
    prometheus.start()
    wait_until(lambda: prometheus.firing() == {"DynprioNoLeader"}, message="nothing runs")

    leader = start_celery(project, "dynprio", "run", ready_line="dynprio ready")
    second = ["dynprio", "run", "--metrics-port", str(ports[1])]
    start_celery(project, *second, name="standby", ready_line="dynprio ready")
    wait_until(lambda: not prometheus.firing(), message="somebody leads")
    for number in range(50):
        project.load().work.delay(f"customer {number % 3}")
    for priority in range(1, 9):  # to where they do not belong, so that there are moves
        while valkey.client.lmove(f"celery\x06\x16{priority}", "celery\x06\x169", "RIGHT", "LEFT"):
            pass
    wait_until(lambda: prometheus.firing() == {"DynprioStarvation"}, message="nobody works")

    start_worker(project)
    wait_until(lambda: "DynprioStarvation" not in prometheus.firing(), message="all has run")
    # A rate needs a second sample that differs.
    wait_until(lambda: prometheus.query('dynprio_deadlines_total{outcome="late"} >= 50'), message="all were late")
    project.load().work.apply_async(("customer 1",), dynprio={"deadline": 1e-6})
    wait_until(lambda: prometheus.firing() == {"DynprioDeadlinesMissed"}, 60, message="all had waited for too long")
    # A scrape that fails hides everything until the next.
    wait_until(lambda: all(shown(prometheus, query) for query in queries()), message="every panel shows something")

    leader.kill("SIGKILL")
    lead = f'dynprio_leader{{instance="127.0.0.1:{ports[1]}"}} == 1'
    wait_until(lambda: prometheus.query(lead), message="the standby leads")


def shown(prometheus: PrometheusServer, query: str) -> bool:
    """Whether a query of the dashboard has an answer; no message is left alone here."""
    for variable, meant in {"$queue": ".*", "$__rate_interval": "1m"}.items():
        query = query.replace(variable, meant)
    return bool(prometheus.query(query)) or "left_alone" in query
