"""The parts of the Flower page that need no Flower's process: what is kept, which part of the table, who may act."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.events.state import State
from flower import app as flower_app
from flower import urls

from celery_dynprio.engine.ordering import Turn
from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.models import HELD, OVERFLOW, PendingTask
from celery_dynprio.monitoring.events import TYPE, follow
from celery_dynprio.monitoring.flower import install
from celery_dynprio.monitoring.flower.access import NOBODY, Rights, is_cross_site, user_of
from celery_dynprio.monitoring.flower.feed import LENGTH, Feed, FollowedEvents
from celery_dynprio.monitoring.flower.kept import SPACING, Kept
from celery_dynprio.monitoring.flower.lookups import Lookups
from celery_dynprio.monitoring.flower.table import TableQuery
from celery_dynprio.monitoring.flower.templating import ADDITIONS, PageLoader

NOW = 1_000_000.0
THREADS = ThreadPoolExecutor(1)


class FakeClock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TestLookups:
    def test_the_same_question_is_answered_once_for_a_while(self) -> None:
        clock, answers = FakeClock(), iter(range(9))
        lookups = Lookups(lambda _: next(answers), age=3.0, clock=clock)
        assert [lookups.ask(key).result(60) for key in "aab"] == [0, 0, 1]
        clock.advance(3.0)
        assert lookups.ask("a").result(60) == 2
        lookups.forget()
        assert lookups.ask("a").result(60) == 3

    def test_few_questions_wait_and_the_rest_are_refused_at_once(self) -> None:
        gate = threading.Event()
        lookups = Lookups(lambda key: gate.wait(60) and key, most=3)
        answers = [lookups.ask(key) for key in "abcab"]
        for key in "defghi":
            with pytest.raises(DynPrioError, match="try again in a few seconds"):
                lookups.ask(key)
        gate.set()
        assert [answer.result(60) for answer in answers] == [*"abcab"]
        assert lookups.ask("d").result(60) == "d"

    def test_what_went_wrong_is_not_kept(self) -> None:
        answers: list[Any] = [OSError("away"), "there"]

        def read(_: str) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

        lookups = Lookups(read)
        with pytest.raises(OSError, match="away"):
            lookups.ask("a").result(60)
        assert lookups.ask("a").result(60) == "there"


class TestKept:
    def test_it_is_read_anew_once_it_is_old(self) -> None:
        clock, answers = FakeClock(), iter(range(9))
        kept = Kept(lambda: next(answers), 10.0, THREADS, clock)
        assert [kept.get(60.0), kept.get(60.0)] == [0, 0]
        clock.advance(10.0)
        assert kept.get(60.0) == 1

    def test_what_takes_long_is_kept_for_longer(self) -> None:
        clock, answers = FakeClock(), iter(range(9))

        def read() -> int:
            clock.advance(4.0)
            return next(answers)

        kept = Kept(read, 1.0, THREADS, clock)
        assert kept.get(60.0) == 0
        clock.advance(4.0 * SPACING - 0.1)
        assert kept.get(60.0) == 0
        clock.advance(0.2)
        assert kept.get(60.0) == 1

    def test_what_was_forgotten_is_waited_for_and_what_is_only_old_is_not(self) -> None:
        clock, answers, gate, begun = FakeClock(), iter(range(9)), threading.Event(), threading.Event()

        def read() -> int:
            begun.set()
            assert gate.wait(60)
            return next(answers)

        kept = Kept(read, 1.0, THREADS, clock)
        assert kept.get(0.0) is None
        gate.set()
        assert kept.get(60.0) == 0
        gate.clear()
        begun.clear()
        clock.advance(2.0)
        assert kept.get(60.0, 0.0) == 0
        assert begun.wait(60)
        clock.advance(1.0)
        kept.forget()
        gate.set()  # of the reading that began before
        assert kept.get(60.0, 0.0) == 2

    def test_what_went_wrong_is_told_and_tried_again(self) -> None:
        divisors = [0, 1]
        kept = Kept(lambda: 7 // divisors.pop(0), 1.0, THREADS)
        with pytest.raises(ZeroDivisionError):
            kept.get(60.0)
        assert kept.get(60.0) == 7


def turn(name: str, place: int = 0, position: int | None = 1, **known: Any) -> Turn:
    return Turn("celery", PendingTask(f"id of {name}", name, NOW, **known), place, position, 0.5, 1.0)


class TestWanted:
    TURNS = (
        turn("b", key="Ada"),
        turn("A", 3, 2, deadline=NOW),
        turn("c", OVERFLOW, 3, deadline=1.0),
        turn("d", HELD, None),
    )

    def names(self, **wanted: Any) -> str:
        return "".join(turn.task.name for turn in TableQuery(**wanted).of(self.TURNS)[0])

    def test_the_order_in_which_they_run_is_kept(self) -> None:
        assert self.names() == "bAcd"
        assert self.names(start=1, count=2) == "Ac"

    def test_a_search_looks_at_name_id_and_key(self) -> None:
        assert [self.names(search=text) for text in ("a", "ID OF C", "ada", "nothing")] == ["bA", "c", "b", ""]
        assert TableQuery(search="id of", count=1).of(self.TURNS)[1] == 4

    def test_a_place(self) -> None:
        assert [self.names(place=place) for place in ("P0", "P3", "parked", "held", "P9")] == ["b", "A", "c", "d", ""]

    def test_what_there_is_none_of_is_last(self) -> None:
        assert self.names(sort="deadline") == "cAbd"
        assert self.names(sort="deadline", descending=True) == "Acbd"
        assert self.names(sort="position", descending=True) == "cAbd"
        assert self.names(sort="place") == "bAcd"

    @pytest.mark.parametrize(
        "wrong", [{"sort": "x"}, {"start": -1}, {"count": 0}, {"count": 201}, {"search": "x" * 201}]
    )
    def test_what_cannot_be_meant_is_an_error(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ArgumentError):
            TableQuery(**wrong)


def options(**known: Any) -> Any:
    return SimpleNamespace(**{"basic_auth": ["ada:x"], "auth": "", "read_only": False, **known})


class TestAccess:
    @pytest.mark.parametrize(
        ("rights", "may"),
        [
            (Rights(), True),
            (Rights(read_only=True), False),
            (Rights(writers={"ada"}), True),
            (Rights(writers=["bob"]), False),
            (Rights(writers=()), False),
            (Rights(writers=lambda user: user.startswith("a")), True),
        ],
    )
    def test_who_may_act(self, rights: Rights, may: bool) -> None:  # noqa: FBT001 - a parameter of a test
        assert rights.may_act("ada", options()) is may
        assert rights.may_act("ada", options(read_only=True)) is False

    def test_where_nobody_logs_in_only_an_open_api_lets_act(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not Rights().may_act(NOBODY, options(basic_auth=None))
        monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "1")
        assert Rights().may_act(NOBODY, options(basic_auth=None))
        assert not Rights(writers={"ada"}).may_act(NOBODY, options(basic_auth=None))

    def test_whom_flower_let_in(self) -> None:
        header = {"Authorization": f"Basic {base64.b64encode(b'ada:se:cret').decode()}"}

        def handler(user: object, basic: object) -> Any:
            application = SimpleNamespace(options=options(basic_auth=basic))
            return SimpleNamespace(current_user=user, application=application, request=SimpleNamespace(headers=header))

        assert user_of(handler("ada@example.com", None)) == "ada@example.com"
        assert user_of(handler(True, ["ada:se:cret"])) == "ada"  # noqa: FBT003 - as Flower says it
        assert user_of(handler(True, None)) == NOBODY  # noqa: FBT003

    @pytest.mark.parametrize(
        ("headers", "cross"),
        [
            ({}, False),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy"}, False),
            ({"Sec-Fetch-Site": "none"}, True),
            ({"Origin": "http://me:1"}, False),
            ({"Origin": "http://me"}, True),
            ({"Origin": "null"}, True),
        ],
    )
    def test_other_sites(self, headers: dict[str, str], cross: bool) -> None:  # noqa: FBT001
        assert is_cross_site(SimpleNamespace(headers=headers, host="me:1")) is cross


class TestFeed:
    def test_the_newest_are_first_and_the_oldest_go(self) -> None:
        feed = Feed()
        for number in range(LENGTH + 1):
            feed.add({"uuid": str(number), "from": "P9", "to": "P0", "score": 0.5, "timestamp": 1.0})
        assert [entry["uuid"] for entry in feed.entries()] == [str(number) for number in range(LENGTH, 0, -1)]

    def test_whatever_an_event_says(self) -> None:
        feed = Feed()
        feed.add({"uuid": 7, "name": "\x1b" * 10_000, "score": "high", "timestamp": None})
        (entry,) = feed.entries()
        assert (entry["uuid"], entry["score"], entry["at"], entry["to"]) == ("", 0.0, 0.0, "")
        assert len(entry["name"]) < 1_000
        assert entry["name"].isprintable()

    def test_flower_lists_what_is_moved_and_keeps_what_it_knows(self) -> None:
        events = FollowedEvents.__new__(FollowedEvents)
        events.state, events.feed = State(), Feed()
        follow(events.state)
        events.io_loop = SimpleNamespace(add_callback=lambda work, *arguments: work(*arguments))
        moved = {"type": TYPE, "hostname": "dynprio@one", "timestamp": NOW, "local_received": NOW, "clock": 1}
        events.on_event({**moved, "uuid": "t", "name": "shop.a", "from": "P9", "to": "P0", "score": 0.5, "queue": "q"})
        task = events.state.tasks["t"]
        assert (task.state, task.name, task.reprioritized["to"]) == ("PENDING", "shop.a", "P0")
        events.state.event({**moved, "type": "task-started", "uuid": "t", "hostname": "w@one"})
        events.on_event({**moved, "uuid": "t", "from": "P0", "to": "P1", "score": 0.5})
        assert (task.state, task.reprioritized["to"]) == ("STARTED", "P1")
        events.on_event({**moved, "uuid": ["forged"]})
        assert (len(events.feed.entries()), list(events.state.workers)) == (2, ["w@one"])


class TestInstall:
    @pytest.fixture(autouse=True)
    def _as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(urls, "handlers", list(urls.handlers))
        monkeypatch.setattr(urls, "settings", dict(urls.settings))
        monkeypatch.setattr(flower_app, "Events", flower_app.Events)

    def test_twice_is_as_once_with_the_later_rights(self) -> None:
        plain = len(urls.handlers)
        install(read_only=True)
        once = len(urls.handlers)
        install(writers={"ada"})
        assert (once - plain, len(urls.handlers)) == (7, once)
        assert urls.handlers[0].kwargs["rights"] == Rights(writers={"ada"})
        assert flower_app.Events is FollowedEvents
        assert PageLoader(Path(urls.settings["template_path"]), Path()).missing() == []

    @pytest.mark.parametrize("found", ["1.2.0", "2.0.1", "3.0.0", "next"])
    def test_another_flower_is_an_error(self, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(install.__globals__, "version", lambda _: found)
        with pytest.raises(DynPrioError, match=f"does not support Flower {found}: pip install"):
            install()
        assert not any(getattr(each, "name", None) == "dynprio" for each in urls.handlers)

    @pytest.mark.parametrize("name", ADDITIONS)
    def test_templates_that_are_others_are_an_error(self, name: str, tmp_path: Path) -> None:
        for other in ADDITIONS:
            original = Path(urls.settings["template_path"]) / other
            (tmp_path / other).write_text("nothing" if other == name else original.read_text())
        urls.settings["template_path"] = str(tmp_path)
        with pytest.raises(DynPrioError, match=rf"unexpected templates \({name}\)"):
            install()
