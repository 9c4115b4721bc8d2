"""What the checks make of settings, brokers and workers: each finding says what to set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_dynprio.brokers.redis.checks import ServerInfo, check_server
from celery_dynprio.cli.doctor import finding_lines
from celery_dynprio.doctor.checks import Facts, check_conf, check_messages, check_workers
from celery_dynprio.doctor.queue_checks import Pause, Queue, Traffic, check_routes, check_traffic
from celery_dynprio.levels import KOMBU_STEPS
from celery_dynprio.ports.health import Finding

STEPS = tuple(range(10))


def conf(**options: Any) -> dict[str, Any]:
    return {
        "worker_disable_prefetch": True,
        "broker_transport_options": {"priority_steps": list(STEPS)},
        **options,
    }


def troubles(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.check) for finding in findings if finding.severity != "ok"]


def only_text(findings: list[Finding]) -> str:
    (text,) = [finding.text for finding in findings if finding.severity != "ok"]
    return text


def test_good_settings_give_no_trouble() -> None:
    assert troubles(check_conf(conf())) == []


@pytest.mark.parametrize(
    ("multiplier", "amount"), [(4, "4 tasks a process"), (1, "one more task a process"), (0, "everything")]
)
def test_prefetching_is_warned_of(multiplier: int, amount: str) -> None:
    text = only_text(check_conf(conf(worker_prefetch_multiplier=multiplier, worker_disable_prefetch=False)))
    assert amount in text
    assert "set worker_disable_prefetch = True" in text


def test_celerys_default_prefetches() -> None:
    assert troubles(check_conf({})) == [("warning", "prefetch")]


@pytest.mark.parametrize(
    "options",
    [
        {"worker_prefetch_multiplier": 4, "worker_disable_prefetch": True},
        {"worker_prefetch_multiplier": 1, "task_acks_late": True, "worker_disable_prefetch": False},
    ],
)
def test_who_reserves_only_what_runs_is_well(options: dict[str, Any]) -> None:
    assert troubles(check_conf(conf(**options))) == []


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
    assert troubles(check_server(ServerInfo(version))) == expected


def test_an_old_redis_is_named_with_what_to_use() -> None:
    assert only_text(check_server(ServerInfo("6.0.16"))) == "version 6.0.16: use Redis 6.2 or newer, or Valkey"


@pytest.mark.parametrize(
    ("server", "check", "remedy"),
    [
        (ServerInfo("7.0", eviction="allkeys-lru"), "maxmemory-policy", "set maxmemory-policy noeviction"),
        (ServerInfo("7.0", aof=False, snapshots=""), "persistence", "set appendonly yes"),
        (ServerInfo("7.0", replicas=2, min_replicas=0), "replication", "set min-replicas-to-write 1"),
        (ServerInfo("7.0", memory=95_000_000, maxmemory=100_000_000), "maxmemory", "raise maxmemory"),
        (ServerInfo("7.0", connections=9_500, maxclients=10_000), "connections", "raise maxclients"),
        (ServerInfo(None), "rights", "+info"),
        (ServerInfo("7.0", skew=1.1), "clock", "1.1 s ahead of this host's"),
        (ServerInfo("7.0", skew=-7.0), "clock", "7.0 s behind this host's"),
    ],
)
def test_brokers_that_lose_or_mislead(server: ServerInfo, check: str, remedy: str) -> None:
    findings = check_server(server)
    assert troubles(findings) == [("warning", check)]
    assert remedy in only_text(findings)


@pytest.mark.parametrize(
    "server",
    [
        ServerInfo("7.0", aof=False, snapshots="3600 1"),
        ServerInfo("7.0", aof=False, snapshots=None),
        ServerInfo("7.0", skew=0.9),
        ServerInfo("7.0", replicas=2, min_replicas=1),
        ServerInfo("7.0", memory=89, maxmemory=100),
        ServerInfo("7.0", connections=89, maxclients=100),
        ServerInfo("7.0", connections=89),
        ServerInfo("7.0", eviction=None),
    ],
)
def test_brokers_that_will_do(server: ServerInfo) -> None:
    assert troubles(check_server(server)) == []


@pytest.mark.parametrize(
    ("server", "check", "remedy"),
    [
        (ServerInfo("7.0", memory=100, maxmemory=100), "maxmemory", "raise maxmemory"),
        (ServerInfo("7.0", primary=False), "replication", "set broker_url to its primary"),
    ],
)
def test_brokers_that_take_no_writes(server: ServerInfo, check: str, remedy: str) -> None:
    findings = check_server(server)
    assert troubles(findings) == [("error", check)]
    assert remedy in only_text(findings)


def test_a_worker_with_other_steps_is_an_error_that_names_it() -> None:
    workers = {"same": conf(), "plain": conf(broker_transport_options={}), "odd": conf(broker_transport_options=None)}
    findings = check_workers(workers, STEPS)
    assert troubles(findings) == [("error", "priority_steps")] * 2
    odd, plain = (finding for finding in findings if finding.severity == "error")
    assert odd.text.startswith("priority_steps = [0, 3, 6, 9], here [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")
    assert (odd.whose, plain.whose) == ("odd", "plain")


def test_a_worker_without_the_addon_makes_the_order_coarser() -> None:
    workers = {"new": conf(), "old": conf(broker_transport_options={})}
    findings = check_workers(workers, STEPS, KOMBU_STEPS)
    assert troubles(findings) == [("warning", "priority_steps")]
    (finding,) = [finding for finding in findings if finding.severity != "ok"]
    assert finding.text.startswith("it takes from the priorities [0, 3, 6, 9] only")
    assert finding.whose == "old"
    odd = check_workers({"odd": conf(broker_transport_options={"priority_steps": [0, 5]})}, STEPS, KOMBU_STEPS)
    assert troubles(odd) == [("error", "priority_steps")], "it does not even take from the plain levels"


@pytest.mark.parametrize(("workers", "level"), [({"old": {}}, "error"), ({}, "warning")])
def test_messages_that_no_worker_takes_are_named(workers: dict[str, Any], level: str) -> None:
    facts = Facts(plain=KOMBU_STEPS, workers=workers, stranded={"celery\x06\x161": 3})
    findings = check_messages(facts, 3600.0, late=False)
    assert troubles(findings) == [(level, "stranded")]
    assert "3 messages wait in 'celery\\x06\\x161'" in only_text(findings)
    assert "`celery -A proj dynprio drain`" in only_text(findings)


def test_each_workers_own_settings_are_judged() -> None:
    findings = check_workers({"w1": conf(worker_prefetch_multiplier=8, worker_disable_prefetch=False)}, STEPS)
    assert only_text(findings).startswith("worker_prefetch_multiplier = 8")
    assert {finding.whose for finding in findings} == {"w1"}


def test_messages_where_nobody_looks_are_an_error() -> None:
    facts = Facts(steps=(0, 5), unpolled={"celery\x06\x169": 3})
    findings = check_messages(facts, 3600.0, late=False)
    assert troubles(findings) == [("error", "priority_steps")]
    assert "3 messages wait in 'celery\\x06\\x169'" in only_text(findings)


@pytest.mark.parametrize(("ahead", "expected"), [(1.0, []), (1.5, [("warning", "producers")])])
def test_messages_from_the_future_are_warned_of(ahead: float, expected: list[tuple[str, str]]) -> None:
    assert troubles(check_messages(Facts(ahead=ahead), 3600.0, late=False)) == expected


@pytest.mark.parametrize(
    ("seconds", "late", "expected"),
    [(400.0, True, [("error", "visibility_timeout")]), (400.0, False, []), (200.0, True, [])],
)
def test_runtimes_beyond_the_visibility_timeout_repeat_late_tasks(
    seconds: float, *, late: bool, expected: list[tuple[str, str]]
) -> None:
    facts = Facts(longest=(seconds, "reindex"))
    findings = check_messages(facts, 300.0, late=late)
    assert troubles(findings) == expected
    assert all("reindex" in finding.text for finding in findings)


def test_no_answer_is_not_taken_for_a_good_one() -> None:
    assert troubles(check_workers({}, STEPS)) == [("warning", "workers")]


def traffic(queue: Queue, **options: Any) -> Traffic:
    return Traffic([queue], **{"workers": ["w1"], "known": {"celery", "default"}, **options})


LED = Queue("celery", ["w1"], leader="host:1 (dedicated)")


def test_queues_that_are_worked_on_are_well() -> None:
    assert troubles(check_traffic(traffic(LED))) == []


@pytest.mark.parametrize(
    ("queue", "level", "remedy"),
    [
        (replace(LED, workers=()), "warning", "start one with `celery -A proj worker -Q celery`"),
        (replace(LED, workers=(), overflow=1), "error", "start one with `celery -A proj worker -Q celery`"),
        (replace(LED, name="defualt", workers=(), routed=False), "error", "did you mean 'default'?"),
        (replace(LED, name="zzz", workers=(), routed=False), "error", "name one that tasks are sent to"),
    ],
)
def test_a_queue_that_nobody_takes_from(queue: Queue, level: str, remedy: str) -> None:
    findings = check_traffic(traffic(queue))
    assert troubles(findings) == [(level, "queues")]
    assert repr(queue.name) in only_text(findings) or f"{queue.name}: " in only_text(findings)
    assert remedy in only_text(findings)


def test_a_queue_is_not_blamed_where_no_worker_answered_or_a_router_decides() -> None:
    assert troubles(check_traffic(traffic(replace(LED, workers=()), workers=[]))) == []
    assert check_routes(["mails"], None) == []
    assert check_routes(["mails"], {"mails"}) == []
    assert "did you mean 'mails'?" in only_text(check_routes(["mail"], {"mails"}))


@pytest.mark.parametrize(
    ("queue", "options", "level", "remedy"),
    [
        (replace(LED, leader=""), {}, "warning", "run `celery -A proj dynprio run`"),
        (replace(LED, leader="", front=1), {}, "error", "run `celery -A proj dynprio run`"),
        (replace(LED, leader="", front=1), {"candidates": ["w1"]}, "warning", "its log says why"),
    ],
)
def test_a_queue_that_nobody_leads(queue: Queue, options: dict[str, Any], level: str, remedy: str) -> None:
    findings = check_traffic(traffic(queue, **options))
    assert troubles(findings) == [(level, "leader")]
    assert remedy in only_text(findings)


@pytest.mark.parametrize(
    ("pause", "words"),
    [
        (Pause("2026-01-02 03:04:05", "ada@ops1", "rush"), "paused by ada@ops1 since 2026-01-02 03:04:05 (rush), "),
        (Pause(), "paused, "),
    ],
)
def test_a_pause_is_told_with_who_and_why(pause: Pause, words: str) -> None:
    findings = check_traffic(traffic(LED, pause=pause))
    assert troubles(findings) == [("warning", "moves")]
    assert only_text(findings).startswith(words)
    assert only_text(findings).endswith("run `celery -A proj dynprio resume`")


@pytest.mark.parametrize(("reason", "remedy"), [("not JSON", "find out who does"), ("too large", "send its key")])
def test_messages_that_are_left_alone_are_told_by_their_reason(reason: str, remedy: str) -> None:
    text = only_text(check_traffic(traffic(replace(LED, sampled=9, foreign={reason: 2}))))
    assert text.startswith(f"celery: 2 of the 9 messages looked at are left where they are: {reason}: ")
    assert remedy in text


def test_a_worker_without_turns_is_named_with_its_other_queues() -> None:
    (finding,) = [each for each in check_traffic(traffic(LED, mixed={"old": ["mails"]})) if each.severity != "ok"]
    assert (finding.check, finding.whose) == ("turns", "old")
    assert "takes from the unmanaged mails as well" in finding.text


def test_llen_is_named_where_it_misses_something() -> None:
    def text(front: int) -> str:
        queue = replace(LED, front=front, plain=3)
        (found,) = [each for each in check_traffic(traffic(queue)) if each.check == "waiting"]
        return found.text

    assert text(front=100).startswith("celery: 100 tasks, of which LLEN celery shows 3: ")
    assert "`celery -A proj dynprio count --json`" in text(front=100)
    assert text(front=3) == "celery: 3 tasks"


def test_a_healthy_deployment_takes_few_lines_however_many_workers_it_has() -> None:
    workers = {f"w{number}": conf() for number in range(50)}
    findings = [
        *check_conf(conf()),
        *check_server(ServerInfo("7.0")),
        *check_workers(workers, STEPS),
        *check_traffic(traffic(LED)),
    ]
    lines = list(finding_lines(findings))
    assert len(lines) <= 8
    assert {level for level, _ in lines} == {"ok"}
    assert "this app, w0, w1 and 48 more" in lines[0][1]


def test_what_is_wrong_with_many_workers_is_said_once_and_first() -> None:
    workers = {f"w{number}": conf(worker_disable_prefetch=False) for number in range(50)}
    (level, line), *rest = finding_lines([*check_conf(conf()), *check_workers(workers, STEPS)])
    assert (level, line.partition(" and ")[0]) == ("warning", "prefetch: w0, w1, w10")
    assert {level for level, _ in rest} == {"ok"}
    assert rest[0][1].startswith("settings: this app: ")
