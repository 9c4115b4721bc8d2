"""What the checks make of settings, brokers and workers: each finding says what to set."""

from __future__ import annotations

from typing import Any

import pytest

from celery_dynprio.checks import Broker, Facts, Finding, check_broker, check_conf, check_messages, check_workers
from celery_dynprio.message import KOMBU_STEPS

STEPS = tuple(range(10))


def conf(**options: Any) -> dict[str, Any]:
    return {
        "worker_prefetch_multiplier": 1,
        "broker_transport_options": {"priority_steps": list(STEPS)},
        **options,
    }


def troubles(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in findings if finding.level != "ok"]


def only_text(findings: list[Finding]) -> str:
    (text,) = [finding.text for finding in findings if finding.level != "ok"]
    return text


def test_good_settings_give_no_trouble() -> None:
    assert troubles(check_conf(conf())) == []


@pytest.mark.parametrize(("multiplier", "amount"), [(4, "4 tasks a process"), (0, "everything")])
def test_prefetching_is_warned_of(multiplier: int, amount: str) -> None:
    text = only_text(check_conf(conf(worker_prefetch_multiplier=multiplier)))
    assert amount in text
    assert "set worker_prefetch_multiplier = 1" in text


def test_celerys_default_prefetches() -> None:
    assert troubles(check_conf({})) == [("warning", "prefetch")]


def test_a_disabled_prefetch_is_well_whatever_the_multiplier() -> None:
    assert troubles(check_conf(conf(worker_prefetch_multiplier=4, worker_disable_prefetch=True))) == []


@pytest.mark.parametrize("strategy", ["priority", "sorted", "proj.cycles:Mine"])
def test_a_strategy_that_lets_queues_starve_is_warned_of(strategy: str) -> None:
    text = only_text(check_conf(conf(broker_transport_options={"queue_order_strategy": strategy})))
    assert repr(strategy) in text
    assert '["queue_order_strategy"] = "round_robin"' in text


@pytest.mark.parametrize(("timeout", "expected"), [(299, [("warning", "visibility_timeout")]), (300, [])])
def test_a_short_visibility_timeout_is_warned_of(timeout: float, expected: list[tuple[str, str]]) -> None:
    findings = check_conf(conf(broker_transport_options={"visibility_timeout": timeout}))
    assert troubles(findings) == expected


def test_late_acks_make_the_visibility_timeout_bind_runtimes_too() -> None:
    short = {"broker_transport_options": {"visibility_timeout": 10}}
    assert "runtime" not in only_text(check_conf(conf(**short)))
    assert "runtime" in only_text(check_conf(conf(**short, task_acks_late=True)))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.2.0", []),
        ("7.2.4", []),
        ("10.0", []),
        ("6.0.16", [("error", "redis")]),
        ("5.0", [("error", "redis")]),
        ("", [("error", "redis")]),
        ("unheard-of", [("error", "redis")]),
    ],
)
def test_redis_6_2_is_the_oldest(version: str, expected: list[tuple[str, str]]) -> None:
    assert troubles(check_broker(Broker(version))) == expected


def test_an_old_redis_is_named_with_what_to_use() -> None:
    assert only_text(check_broker(Broker("6.0.16"))) == "version 6.0.16: use Redis 6.2 or newer, or Valkey"


@pytest.mark.parametrize(
    ("broker", "check", "remedy"),
    [
        (Broker("7.0", eviction="allkeys-lru"), "maxmemory-policy", "set maxmemory-policy noeviction"),
        (Broker("7.0", aof=False, snapshots=""), "persistence", "set appendonly yes"),
        (Broker("7.0", skew=1.1), "clock", "1.1 s ahead of this host's"),
        (Broker("7.0", skew=-7.0), "clock", "7.0 s behind this host's"),
    ],
)
def test_brokers_that_lose_or_mislead(broker: Broker, check: str, remedy: str) -> None:
    findings = check_broker(broker)
    assert troubles(findings) == [("warning", check)]
    assert remedy in only_text(findings)


@pytest.mark.parametrize(
    "broker",
    [
        Broker("7.0", aof=False, snapshots="3600 1"),
        Broker("7.0", aof=False, snapshots=None),
        Broker("7.0", skew=0.9),
        Broker("7.0", eviction=""),
    ],
)
def test_brokers_that_will_do(broker: Broker) -> None:
    assert troubles(check_broker(broker)) == []


def test_a_worker_with_other_steps_is_an_error_that_names_it() -> None:
    workers = {"same": conf(), "plain": conf(broker_transport_options={}), "odd": conf(broker_transport_options=None)}
    findings = check_workers(workers, STEPS)
    assert troubles(findings) == [("error", "priority_steps")] * 2
    odd, plain = (finding.text for finding in findings if finding.level == "error")
    assert odd.startswith("odd: priority_steps = [0, 3, 6, 9], here [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")
    assert plain.startswith("plain: ")


def test_a_worker_without_the_addon_makes_the_order_coarser() -> None:
    workers = {"new": conf(), "old": conf(broker_transport_options={})}
    findings = check_workers(workers, STEPS, KOMBU_STEPS)
    assert troubles(findings) == [("warning", "priority_steps")]
    assert only_text(findings).startswith("old: it takes from the priorities [0, 3, 6, 9] only")
    odd = check_workers({"odd": conf(broker_transport_options={"priority_steps": [0, 5]})}, STEPS, KOMBU_STEPS)
    assert troubles(odd) == [("error", "priority_steps")], "it does not even take from the plain levels"


@pytest.mark.parametrize(("workers", "level"), [({"old": {}}, "error"), ({}, "warning")])
def test_messages_that_no_worker_takes_are_named(workers: dict[str, Any], level: str) -> None:
    facts = Facts(Broker("7.0"), plain=KOMBU_STEPS, workers=workers, stranded={"celery\x06\x161": 3})
    findings = check_messages(facts, 3600.0, late=False)
    assert troubles(findings) == [(level, "stranded")]
    assert "3 messages wait in 'celery\\x06\\x161'" in only_text(findings)
    assert "`celery -A proj dynprio drain`" in only_text(findings)


def test_each_workers_own_settings_are_judged() -> None:
    findings = check_workers({"w1": conf(worker_prefetch_multiplier=8)}, STEPS)
    assert only_text(findings).startswith("w1: worker_prefetch_multiplier = 8")


def test_messages_where_nobody_looks_are_an_error() -> None:
    facts = Facts(Broker("7.0"), steps=(0, 5), unpolled={"celery\x06\x169": 3})
    findings = check_messages(facts, 3600.0, late=False)
    assert troubles(findings) == [("error", "priority_steps")]
    assert "3 messages wait in 'celery\\x06\\x169'" in only_text(findings)


@pytest.mark.parametrize(("ahead", "expected"), [(1.0, []), (1.5, [("warning", "producers")])])
def test_messages_from_the_future_are_warned_of(ahead: float, expected: list[tuple[str, str]]) -> None:
    assert troubles(check_messages(Facts(Broker("7.0"), ahead=ahead), 3600.0, late=False)) == expected


@pytest.mark.parametrize(
    ("seconds", "late", "expected"),
    [(400.0, True, [("error", "visibility_timeout")]), (400.0, False, []), (200.0, True, [])],
)
def test_runtimes_beyond_the_visibility_timeout_repeat_late_tasks(
    seconds: float, *, late: bool, expected: list[tuple[str, str]]
) -> None:
    facts = Facts(Broker("7.0"), longest=(seconds, "reindex"))
    findings = check_messages(facts, 300.0, late=late)
    assert troubles(findings) == expected
    assert all("reindex" in finding.text for finding in findings)


def test_no_answer_is_not_taken_for_a_good_one() -> None:
    assert troubles(check_workers({}, STEPS)) == [("warning", "workers")]
