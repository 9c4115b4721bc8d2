"""What the exporter makes of reports and of what workers counted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest

from celery_dynprio.models import OVERFLOW, Move, Outcome, Report, Role, Run, Snapshot
from celery_dynprio.monitoring.prometheus import Exporter, Shared
from celery_dynprio.objectives import Objective, Standing
from celery_dynprio.settings import Settings
from celery_dynprio.stores.memory import MemoryHistograms
from celery_dynprio.testing import NOW, pending_task
from tests.prometheus import ALERTS, ROOT, families, promtool, queries, value

OBJECTIVE = Objective("checkouts", "shop.checkout", 5)
SETTINGS = Settings(queues=("orders", "mails"), objectives=(OBJECTIVE,))


def shared(runs: Iterable[Run] = (), **use: float) -> Shared:
    memory = MemoryHistograms()
    memory.add(runs)
    return Shared(memory.read(), use, {"no_room": 7, "not_sent": 0})


def report(queue: str = "orders", role: Role = Role.LEADER, **values: Any) -> Report:
    if role in {Role.LEADER, Role.PAUSED}:
        waiting = pending_task(waited=5.0), pending_task(waited=8.0)
        parked = {task.id: task for task in [pending_task(waited=30.0)]}
        snapshot = Snapshot((waiting, (), (pending_task(waited=1.0),)), (2, 1, 1), parked, 4, 3, 0, {"not JSON": 1})
        values = {"snapshot": snapshot, "deferred": 6, **values}
    return Report(queue, role, NOW, 0.05, **values)


def moves() -> dict[str, Any]:
    task = pending_task()
    places = [(4, 0, "score"), (0, 4, "score"), (2, OVERFLOW, "overflow"), (OVERFLOW, 3, "refill"), (9, 0, "starving")]
    made = [Move(task, source, target, 0.5, reason) for source, target, reason in places]
    return {"moves": made, "outcomes": [*[Outcome.MOVED] * 4, Outcome.GONE], "spilled": 7}


def exported(exporter: Exporter) -> str:
    registry = CollectorRegistry()
    registry.register(exporter)
    return generate_latest(registry).decode()


def exporter(*reports: Report, now: float = NOW, **options: Any) -> Exporter:
    options = {"shared": shared, **options}
    made = Exporter(SETTINGS, "orders", clock=lambda: now, **options)
    for each in reports:
        made.observe(each)
    return made


def everything() -> str:
    """All that there is to be exported."""
    runs = [Run("work", "x", 2.0, 8, 0.5, in_time=True), Run("work", "x", 2.0, None, None, in_time=False)]
    standings = [Standing(OBJECTIVE, started=9, in_time=8, overdue=1, since=NOW)]
    watched = report(**moves(), standings=standings, held_back=5)
    return exported(exporter(watched, shared=lambda: shared(runs, x=3.0), dropped=lambda: 1))


def test_objectives_are_told_by_who_leads_the_first_queue() -> None:
    text = everything()
    assert value(text, "dynprio_objective_attainment_ratio", objective="checkouts") == 0.8
    assert value(text, "dynprio_objective_target_ratio", objective="checkouts") == 0.95
    assert value(text, "dynprio_objective_breached", objective="checkouts") == 1
    assert value(text, "dynprio_held_back", queue="orders") == 5
    met = Standing(OBJECTIVE)
    text = exported(exporter(report(standings=[met])))
    assert value(text, "dynprio_objective_attainment_ratio") is None
    assert value(text, "dynprio_objective_breached", objective="checkouts") == 0
    assert "dynprio_objective" not in exported(exporter(report("mails", standings=[met])))


def test_who_leads_tells_what_waits() -> None:
    text = exported(exporter(report()))
    assert [value(text, "dynprio_pending", queue="orders", level=str(level)) for level in range(3)] == [2, 1, 1]
    assert value(text, "dynprio_parked", queue="orders") == 4
    assert value(text, "dynprio_held", queue="orders") == 3
    assert value(text, "dynprio_left_alone", queue="orders", reason="not JSON") == 1
    assert value(text, "dynprio_moves_deferred", queue="orders") == 6
    assert value(text, "dynprio_oldest_wait_seconds", queue="orders") == 30.0, "what is parked waits too"
    waits = [value(text, "dynprio_level_oldest_wait_seconds", queue="orders", level=str(level)) for level in range(3)]
    assert waits == [8.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("role", "leads", "tells"),
    [(Role.LEADER, 1, True), (Role.PAUSED, 1, True), (Role.STANDBY, 0, False), (Role.DRY_RUN, 0, False)],
)
def test_only_who_leads_tells_of_a_queue_and_all_tell_their_role(role: Role, leads: int, *, tells: bool) -> None:
    runs = [Run("work", "", 1.0)]
    text = exported(exporter(report(role=role), shared=lambda: shared(runs, x=1.0)))
    assert value(text, "dynprio_leader", queue="orders") == leads
    assert value(text, "dynprio_leader", queue="mails") == 0
    assert value(text, "dynprio_role", queue="orders", role=role.value) == 1
    assert value(text, "dynprio_role", queue="orders") == 1
    for name in ("pending", "oldest_wait_seconds", "use_seconds", "task_run_seconds_count"):
        assert (value(text, f"dynprio_{name}") is not None) == tells


def test_nobody_leads_who_has_not_ticked_for_longer_than_a_lease_lasts() -> None:
    text = exported(exporter(report(), now=NOW + 11))
    assert value(text, "dynprio_leader", queue="orders") == 0
    assert value(text, "dynprio_pending") is None
    assert value(text, "dynprio_tick_lag_seconds", queue="orders") == 10.0
    assert value(text, "dynprio_last_tick_timestamp_seconds", queue="orders") == NOW


def test_what_all_share_is_told_by_one_of_them() -> None:
    text = exported(exporter(report("mails"), shared=lambda: shared([Run("work", "", 1.0)], x=1.0)))
    assert value(text, "dynprio_pending", queue="mails") is not None
    assert value(text, "dynprio_use_seconds") is None
    assert value(text, "dynprio_task_run_seconds_count") is None
    assert value(text, "dynprio_spans_dropped_total") is None


def test_dropped_spans_are_counted_by_cause() -> None:
    text = everything()
    assert value(text, "dynprio_spans_dropped_total", cause="no_room") == 7
    assert value(text, "dynprio_spans_dropped_total", cause="not_sent") == 0


def test_moves_are_counted_by_direction_and_reason() -> None:
    text = exported(exporter(report(**moves()), report(**moves())))
    found = {
        (sample.labels["direction"], sample.labels["reason"]): sample.value
        for sample in families(text)["dynprio_moves"].samples
    }
    assert found == {
        ("up", "score"): 2,
        ("down", "score"): 2,
        ("park", "overflow"): 2 + 14,
        ("refill", "refill"): 2,
    }
    assert value(text, "dynprio_moves_missed_total", queue="orders") == 2


def test_ticks_are_counted_where_the_queue_was_read() -> None:
    text = exported(exporter(report(), report(role=Role.STANDBY)))
    assert value(text, "dynprio_tick_seconds_count", queue="orders") == 1
    assert value(text, "dynprio_tick_seconds_sum", queue="orders") == 0.05


def test_failures_are_counted_by_cause() -> None:
    made = exporter()
    made.failed("orders", redis.ConnectionError("away"))
    made.failed("orders", ZeroDivisionError("a bug"))
    made.failed("orders", ZeroDivisionError("a bug"))
    text = exported(made)
    assert value(text, "dynprio_tick_errors_total", queue="orders", cause="broker") == 1
    assert value(text, "dynprio_tick_errors_total", queue="orders", cause="other") == 2
    assert value(text, "dynprio_tick_errors_total", queue="mails") == 0


def test_a_broker_that_is_away_costs_the_scrape_only_what_it_knows() -> None:
    def away() -> Shared:
        raise redis.ConnectionError("away")

    made = exporter(report(), shared=away)
    exported(made)
    text = exported(made)
    assert value(text, "dynprio_scrape_errors_total") == 2
    assert value(text, "dynprio_pending") == 4
    assert value(text, "dynprio_use_seconds") is None


def test_workers_histograms_are_told_by_task_and_level() -> None:
    text = everything()
    assert value(text, "dynprio_task_wait_seconds_bucket", task="work", level="8", le="0.3") == 0
    assert value(text, "dynprio_task_wait_seconds_bucket", task="work", level="8", le="1.0") == 1
    assert value(text, "dynprio_task_wait_seconds_sum", task="work", level="8") == 0.5
    assert value(text, "dynprio_task_run_seconds_count", task="work", level="unknown") == 1
    assert value(text, "dynprio_deadlines_total", task="work", outcome="in_time") == 1
    assert value(text, "dynprio_deadlines_total", task="work", outcome="late") == 1


def test_the_keys_with_the_most_use_are_told_and_the_others_together() -> None:
    use = {f"key {number:02}": float(number) for number in range(30)} | {"": 100.0, "other": 200.0, "a\nb": 300.0}
    text = exported(exporter(report(), shared=lambda: shared((), **use)))
    assert value(text, "dynprio_use_seconds") == sum(use.values())
    assert value(text, "dynprio_use_seconds", key="(no key)") == 100.0
    assert value(text, "dynprio_use_seconds", key="a\\nb") == 300.0
    assert value(text, "dynprio_use_seconds", key="key 29") == 29.0
    assert value(text, "dynprio_use_seconds", key="other") == 200.0 + sum(range(13))
    assert len(families(text)["dynprio_use_seconds"].samples) == 20


def test_the_names_are_as_prometheus_wants_them() -> None:
    promtool("check", "metrics", text=everything())


def test_a_metric_without_its_parts_is_never_exported() -> None:
    every = everything()
    assert all(name.startswith("dynprio_") for name in families(every))
    assert not re.search(r"_created\b", every)
    assert all(family.samples and family.documentation for family in families(every).values())


def names(text: str) -> set[str]:
    """The metrics that are meant in queries, counters without ``_total`` and histograms without their parts."""
    return {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in re.findall(r"\bdynprio_[a-z_]+", text)} - {
        "dynprio_window"
    }


def test_the_dashboard_and_the_alerts_ask_for_what_is_exported() -> None:
    known = set(families(everything()))
    assert names(" ".join(queries())) <= known
    assert names(ALERTS.read_text()) <= known
    assert names(" ".join(queries())) >= known - {"dynprio_last_tick_timestamp_seconds"}, "the dashboard shows it all"


def test_the_reference_has_a_row_for_each_metric() -> None:
    section = (ROOT / "docs/reference.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(dynprio_\w+)`", section, re.MULTILINE)
    assert {name.removesuffix("_total") for name in documented} == set(families(everything()))


def test_the_alert_rules_do_what_their_tests_say() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", "alerts_test.yml", directory=ALERTS.parent)
    tested = set(re.findall(r"alertname: (\w+)", (ALERTS.parent / "alerts_test.yml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
