"""What the commands show, also of hostile messages and in narrow terminals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timezone
from itertools import starmap
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest

from celery_dynprio.cli import filters, listing, steering
from celery_dynprio.cli.explain import explanation_lines
from celery_dynprio.cli.log import log_lines
from celery_dynprio.cli.policy import comparison_lines, comparison_object, policy_lines
from celery_dynprio.cli.rendering import Column, counted, table
from celery_dynprio.cli.reprioritize import _changes
from celery_dynprio.cli.session import WrongUsage
from celery_dynprio.cli.stats import MOST_LEARNED, stats_lines, stats_object
from celery_dynprio.engine.draws import Range
from celery_dynprio.engine.ordering import Shift, Turn
from celery_dynprio.engine.scene import Scene
from celery_dynprio.errors import DynPrioError
from celery_dynprio.models import HELD, OVERFLOW, Context, Contribution, Moved, PendingTask, place_name
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.plain import explanation_object
from celery_dynprio.operators.results import Ahead, Comparison, Explanation, Listing, QueueStats, Stats
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.steering import Result
from celery_dynprio.operators.workers import Workers
from celery_dynprio.policies import Age, Weight
from celery_dynprio.ports.lease import Holder
from celery_dynprio.ports.stores import Entry

NOW = 1000.0
SCENE = Scene("celery", Context(NOW), (), {})
HOSTILE = "shop.\x1b[2J\u202eevil\n"
INERT = r"shop.\x1b[2J\u202eevil\n"


def task(task_id: str = "id-1", name: str = "shop.report", **known: Any) -> PendingTask:
    return PendingTask(task_id, name, published=NOW - 5, **known)


def turn(place: int = 3, position: int | None = 1, queue: str = "celery", **known: Any) -> Turn:
    return Turn(queue, task(**known), place, position, 0.5, 5.0, None if position is None else NOW + 2.5)


def plain(text: str, **_: Any) -> str:
    return text


class TestTable:
    COLUMNS = (Column("n", right=True), Column("key", least=4), Column("task", least=6, keep_end=True), Column("id"))
    ROWS = (["1", "megacorp", "shop.billing.render", "id-1"], ["12", "me", "shop.mail", "id-12"])

    def test_without_a_bound_nothing_is_cut(self) -> None:
        assert list(table(self.COLUMNS, self.ROWS)) == [
            " n  key       task                 id",
            " 1  megacorp  shop.billing.render  id-1",
            "12  me        shop.mail            id-12",
        ]

    @pytest.mark.parametrize(
        ("width", "expected"),
        [
            (40, " 1  megacorp  shop.billing.render  id-1"),
            (38, " 1  megac…  shop.billing.render  id-1"),
            (32, " 1  meg…  …billing.render  id-1"),
            (23, " 1  meg…  …ender  id-1"),
            (12, " 1  meg…  ……"),
        ],
    )
    def test_columns_are_cut_until_the_terminal_is_wide_enough(self, width: int, expected: str) -> None:
        lines = list(table(self.COLUMNS, self.ROWS, width))
        assert lines[1] == expected
        assert max(map(len, lines)) <= width

    def test_what_a_terminal_shows_twice_as_wide_counts_twice(self) -> None:
        columns = (Column("key", least=4), Column("id"))
        rows = [["漢字漢字", "id-1"], ["e\u0301t\u00e9", "id-2"], ["megacorp", "id-3"]]
        assert list(table(columns, rows))[1:] == ["漢字漢字  id-1", "e\u0301t\u00e9       id-2", "megacorp  id-3"]
        assert list(table(columns, rows, 12))[1:] == ["漢字…   id-1", "e\u0301t\u00e9     id-2", "megac…  id-3"]

    def test_cells_are_inert(self) -> None:
        assert list(table((Column("task"),), [[HOSTILE]]))[1] == INERT


class TestList:
    def test_rows(self) -> None:
        page = Listing(
            [
                turn(deadline=NOW - 3.25, key="ada"),
                turn(OVERFLOW, 2, task_id="id-2"),
                turn(HELD, None, task_id="id-3", name=HOSTILE, key="\x07"),
            ],
            3,
        )
        assert [line.split() for line in listing.listing_lines(page, NOW, None)] == [
            ["#", "place", "score", "waited", "deadline", "key", "start", "task", "id"],
            ["1", "P3", "0.500", "5.0", "-3.2", "ada", "2.5", "shop.report", "id-1"],
            ["2", "parked", "0.500", "5.0", "-", "-", "2.5", "shop.report", "id-2"],
            ["held", "0.500", "5.0", "-", r"\x07", "-", INERT, "id-3"],
            ["3", "tasks"],
        ]

    def test_the_queue_is_shown_if_there_are_several(self) -> None:
        lines = list(listing.listing_lines(Listing([turn(), turn(queue="mails")], 1234), NOW, None))
        assert [line.split()[7] for line in lines[:3]] == ["queue", "celery", "mails"]
        assert lines[-1] == "2 of 1,234 shown"

    @pytest.mark.parametrize("several", [False, True])
    @pytest.mark.parametrize(
        "pattern", ["{0:x}f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11", "invoice-2026-0000{0:x}-of-tenant-7"]
    )
    def test_enough_of_an_id_to_type_it_is_shown_at_80_columns(self, pattern: str, several: bool) -> None:  # noqa: FBT001
        turns = [
            Turn(
                f"queue number {index % (1 + several)}",
                task(
                    pattern.format(index), "my.long.package.tasks.render", key="tenant megacorp", deadline=NOW - 86_000
                ),
                OVERFLOW,
                1000 + index,
                0.5,
                86_400.0,
                NOW + 86_400,
            )
            for index in range(16)
        ]
        lines = list(listing.listing_lines(Listing(turns, 16), NOW, 80))
        assert max(map(len, lines)) <= 80
        starts = [line.split()[-1].rstrip("…") for line in lines[1:-1]]
        assert len(starts) == 16
        for start, each in zip(starts, turns, strict=True):
            assert [other.task.id for other in turns if other.task.id.startswith(start)] == [each.task.id]

    def test_nothing_waits(self) -> None:
        assert list(listing.listing_lines(Listing([], 0), NOW, None)) == ["No tasks are waiting."]
        assert list(listing.listing_lines(Listing([], 0), NOW, None, filtered=True)) == ["No pending tasks match."]
        missed = "Up to 3 more tasks may match: they were moved during the search. Run it again to be sure."
        assert list(listing.listing_lines(Listing([], 0, 3), NOW, None)) == ["No tasks are waiting.", missed]
        assert list(listing.listing_lines(Listing([turn()], 1, 3), NOW, None))[-2:] == ["1 task", missed]

    def test_json_has_these_keys(self) -> None:
        found = json.loads(json.dumps(listing.listing_object(Listing([turn(OVERFLOW, deadline=NOW + 1)], 7), NOW)))
        assert (found["shown"], found["matching"], found["at"]) == (1, 7, NOW)
        assert found["tasks"] == [
            {
                "id": "id-1",
                "task": "shop.report",
                "queue": "celery",
                "position": 1,
                "place": "parked",
                "level": None,
                "pinned": None,
                "score": 0.5,
                "waited": 5.0,
                "weight": 1.0,
                "deadline_in": 1.0,
                "key": None,
                "dependents": 0,
                "expected_in": 2.5,
            }
        ]


def explanation(found: Turn, contributions: Sequence[Contribution] = (), **known: Any) -> Explanation:
    rest: dict[str, Any] = {
        "ahead_by_place": {},
        "ahead": [],
        "moves": [],
        "operations": [],
        "trace_id": "0" * 32,
        "in_front": None,
        "start": None,
    }
    return Explanation(found, contributions, **{**rest, **known})


class TestExplain:
    def test_all_that_there_is(self) -> None:
        found = explanation(
            turn(OVERFLOW, 13, key="ada", deadline=NOW + 30),
            [Contribution("Weight", 0.1, 3, 0.075), Contribution("Age", 0.5, 1, 0.125)],
            ahead_by_place={0: 2, OVERFLOW: 10},
            ahead=[Ahead(task("id-9"), 0, 0.9, "Weight +0.600")],
            moves=[Moved(NOW, 3, OVERFLOW, 0.25, "overflow")],
            operations=[Entry(NOW, "bump", "ada@ops", "they called")],
            in_front=NOW + 1,
            start=Range(NOW - 1, NOW + 2, NOW + 4000),
        )
        lines = list(explanation_lines(found, NOW, None))
        head = dict(line.split(maxsplit=1) for line in lines[:9])
        assert head["place"] == "parked, number 13"
        assert (head["deadline"], head["in"]) == ("in 30.0 s", "front  in 1.0 s")
        assert head["start"] == "in 2.0 s; 80 %: in 0.0 to 4,000.0 s"
        rows = [line.split() for line in lines]
        assert ["Weight", "0.100", "3", "0.075"] in rows
        assert ["score", "0.500"] in rows
        assert "12 tasks are ahead (P0 2, parked 10); the nearest of them:" in lines
        assert ["P0", "0.900", "Weight", "+0.600", "shop.report", "id-9"] in rows
        assert [*moment(NOW).split(), "P3", "parked", "0.250", "overflow"] in rows
        assert [*moment(NOW).split(), "ada@ops", "bump", "done", "they", "called"] in rows
        again = json.loads(json.dumps(explanation_object(found, NOW)))
        assert again["ahead_by_place"] == {"P0": 2, "parked": 10}
        assert (again["in_front_in"], again["moves"][0]["target"]) == (1.0, "parked")
        assert again["start_in"] == {"low": 0.0, "median": 2.0, "high": 4000.0}

    def test_held_pinned_first_and_unknown(self) -> None:
        held = list(explanation_lines(explanation(turn(HELD, None, pinned=2)), NOW, None))
        assert "place     held, pinned to P2" in held
        assert "start     when it is released" in held
        assert "No policy moves it: it is pinned to P2." in held
        first = Turn("celery", task(), 0, 1, 0.5, 5.0)
        lines = list(explanation_lines(explanation(first), NOW, None))
        assert any(line.startswith("start     unknown") for line in lines)
        assert lines[-3:] == ["The policy failed to score it.", "", "Nothing is ahead of it."]


class TestPolicy:
    def test_terms(self) -> None:
        rows = [line.split() for line in policy_lines(3 * Weight() + 1 * Age(saturation=60), None)]
        assert rows == [["weight", "share", "factor"], ["3", "75%", "Weight()"], ["1", "25%", "Age(saturation=60)"]]

    def test_who_overtakes_whom(self) -> None:
        shifts = [
            Shift(task("c", "shop.c"), 3, 1, 0.1, 0.9),
            Shift(task("d", "shop.d"), 4, 4, 0.0, 0.0),
            *starmap(Shift, [(task("a", "shop.a"), 1, 2, 0.5, 0.5), (task("b", "shop.a"), 2, 3, 0.4, 0.4)]),
        ]
        lines = list(comparison_lines(Comparison("celery", shifts, SCENE), 1, None))
        assert lines[0] == "celery: of 4 tasks, 1 would move up, 2 down, 1 would stay"
        assert [line.split()[-1] for line in lines if line.startswith("   ")] == ["c", "b"]
        assert lines[-1].split() == ["shop.a", "2", "1.0", "places", "1"]
        found = comparison_object(Comparison("celery", shifts, SCENE), None)
        assert [each["id"] for each in found["fall"]] == ["b", "a"]
        assert found["overtaken"] == [{"task": "shop.a", "tasks": 2, "mean_places": 1.0, "most_places": 1}]


def test_stats() -> None:
    leader = Holder("host:1:ab", "dedicated", 7)
    queue = QueueStats("celery", [0, 1200], [None, 3.25], 5, 2, {"not JSON": 3}, 41, leader)
    idle = QueueStats("mails", [0], [None], 0, 0, {}, 1, None)
    workers = Workers({"one@x": 4}, {"one@x": frozenset({"mails", "celery"})})
    found = Stats(NOW, True, [queue, idle], workers, {f"t{n:02}": float(n) for n in range(12)}, {"": 1.0, "ada": 3.0})  # noqa: FBT003
    lines = list(stats_lines(found, None))
    rows = [line.split() for line in lines]
    assert lines[0] == "Paused: nothing is moved until `dynprio resume`."
    for op, by in (("pause", "by ada@ops"), ("drain", "by the drain of ada@ops")):
        told = stats_lines(replace(found, pause=Entry(0.0, op, "ada@ops", "upgrade")), None, timezone.utc)
        assert (
            next(told)
            == f"Paused {by} since 1970-01-01 00:00:00 UTC (upgrade): nothing is moved until `dynprio resume`."
        )
    again = stats_object(replace(found, pause=Entry(7.0, "pause", "ada@ops", "upgrade")))
    assert again["pause"] == {"since": 7.0, "by": "ada@ops", "op": "pause", "why": "upgrade"}
    assert "celery: 1,200 messages in the front, 41 moves made, led by host:1:ab (dedicated)" in lines
    assert "mails: 0 messages in the front, 1 move made, nobody leads" in lines
    assert "left alone: not JSON 3" in lines
    assert "1 worker with 4 slots" in lines
    for row in (
        ["P1", "1,200", "3.2"],
        ["parked", "5", "-"],
        ["held", "2", "-"],
        ["one@x", "4", "celery,", "mails"],
        ["t11", "11.000"],
        ["ada", "3.0", "75%"],
        ["(no", "key)", "1.0", "25%"],
    ):
        assert row in rows
    assert ["t01", "1.000"] not in rows
    told = json.loads(json.dumps(stats_object(found)))
    assert told["queues"][0]["levels"][1] == {"level": 1, "messages": 1200, "oldest": 3.25}
    assert told["queues"][0]["leader"]["owner"] == "host:1:ab"
    assert len(told["runtimes"]) == MOST_LEARNED


def test_times_carry_the_zone_of_the_app() -> None:
    entries = [Entry(1_767_225_600.0, "pause", "ada@ops")]
    (_, line) = log_lines(entries, None, ZoneInfo("Europe/Vienna"))
    assert line.startswith("2026-01-01 01:00:00 CET  ada@ops")


def test_log() -> None:
    entries = [Entry(NOW, "pause", "ada@ops"), Entry(NOW, "hold", "ada@ops", "why", "celery", "id-1", "shop.report")]
    rows = [line.split() for line in log_lines(entries, None)]
    assert rows[1] == [*moment(NOW).split(), "ada@ops", "pause", "done", "-", "-", "-"]
    assert rows[2][-4:] == ["celery", "shop.report", "id-1", "why"]
    assert list(log_lines([], None)) == ["No operator actions recorded."]


class TestSteering:
    def test_one_line_a_task_and_a_summary(self) -> None:
        results = [
            Result("id-1", Answer.DONE, HOSTILE, "celery", "already held"),
            Result("id\x1b", Answer.NOT_FOUND),
            Result("id-3", Answer.RUNNING),
        ]
        assert list(steering.result_lines(results, plain)) == [
            f"id-1 {INERT}: done (already held)",
            r"id\x1b: not found",
            "id-3: already running",
            "3 tasks: 1 done, 1 not found, 1 already running",
        ]
        assert len(list(steering.result_lines(results[:1], plain))) == 1
        assert list(steering.result_lines([], plain)) == ["No pending tasks match."]
        found = steering.results_object("hold", results)
        assert (found["operation"], found["done"], found["results"][1]["answer"]) == ("hold", 1, "not found")

    def test_changes(self) -> None:
        given = {"weight": 3.0, "deadline": "1.5", "key": None, "level": "auto"}
        assert _changes(given) == {"weight": 3.0, "deadline": 1.5, "level": None}
        assert _changes({"deadline": "1h30m"}) == {"deadline": 5400.0}
        with pytest.raises(WrongUsage, match="--deadline 'soon': use seconds, such as 90, or 90s, 5m, 1h30m, or none"):
            _changes({"deadline": "soon"})
        taken_away = {"deadline": "none", "key": "none", "level": "7"}
        assert _changes(taken_away) == {
            "deadline": None,
            "key": None,
            "level": 7,
        }
        with pytest.raises(WrongUsage, match="--level 'top': use the number of a level or auto"):
            _changes({"level": "top"})

    def test_filters(self) -> None:
        options: dict[str, Any] = {
            f"filter_{name}": None for name in ("task", "key", "level", "trace", "older", "queue")
        }
        options |= {"filter_held": False, "filter_level": 0, "limit": 3}
        given = filters.pop_fields(options)
        assert given == {"level": 0}
        assert options == {"limit": 3}
        assert filters.make_filter(given) == Filter(level=0)
        with pytest.raises(WrongUsage, match="level = 10"):
            filters.make_filter({"level": 10})


def test_words() -> None:
    assert [place_name(place) for place in (0, 9, OVERFLOW, HELD)] == ["P0", "P9", "parked", "held"]
    assert [counted(1, "task"), counted(1234, "task")] == ["1 task", "1,234 tasks"]
    assert moment(1e300) == "1e+300"


def test_wrong_usage_is_an_error_of_clicks() -> None:
    assert issubclass(WrongUsage, click.ClickException)
    assert WrongUsage("no").exit_code == 2
    assert not issubclass(WrongUsage, DynPrioError)
