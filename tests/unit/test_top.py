"""The screen of ``dynprio top`` without a terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any, Final
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.cli.rendering import wide
from celery_dynprio.cli.top import keys as top_keys
from celery_dynprio.cli.top.keys import Keys
from celery_dynprio.cli.top.screen import HELP, STYLES, alarms, room_for, screen_lines
from celery_dynprio.cli.top.state import Figures, Sort, State, View
from celery_dynprio.cli.top.stderr import aside
from celery_dynprio.engine.ordering import Turn
from celery_dynprio.models import HELD, PendingTask
from celery_dynprio.operators.results import Listing, QueueStats, Stats
from celery_dynprio.operators.workers import Workers
from celery_dynprio.ports.lease import Holder

NOW: Final = 1000.0
HOSTILE: Final = "shop.\x1b[2J\u202eevil\n"
WORKERS: Final = Workers({"w1@host": 4}, {"w1@host": frozenset({"celery"})})
LEADER: Final = Holder("host:1:abcd", "dedicated", 1)


def turn(number: int, *, place: int = 3, score: float = 0.5, waited: float = 5.0, **fields: Any) -> Turn:
    task = PendingTask(f"id-{number}", fields.pop("name", "shop.report"), published=NOW - waited, **fields)
    return Turn("celery", task, place, None if place == HELD else number, score, waited, NOW + number)


def queue(**changes: Any) -> QueueStats:
    quiet = QueueStats("celery", [0] * 10, [None] * 10, 0, 0, {}, 0, LEADER)
    return replace(quiet, **changes)


def view(*turns: Turn, stats: QueueStats | None = None, paused: bool = False, **changes: Any) -> View:
    found = Stats(NOW, paused, [stats or queue()], changes.pop("workers", WORKERS))
    figures = Figures(found, Listing(turns, len(turns)), patience=changes.pop("patience", 300.0))
    return View("celery", figures, **changes)


def texts(look: View, width: int = 80, height: int = 24, now: float = NOW) -> list[str]:
    return ["".join(text for _, text in line).rstrip() for line in screen_lines(look, width, height, now)]


MANY: Final = [turn(number, deadline=NOW + number, key="ada") for number in range(1, 201)]


class TestScreen:
    def test_of_80_by_24(self) -> None:
        stats = queue(depths=[1, 0, 0, 198, 0, 0, 0, 0, 0, 1], oldest=[2.0, *[None] * 2, 9.0, *[None] * 6], held=7)
        lines = texts(view(*MANY, stats=stats))
        assert lines[0].startswith("dynprio top  celery  ")
        assert lines[1:10] == [
            "front 200  parked 0  held 7  1 worker, 4 slots  moves/s -",
            "led by host:1:abcd (dedicated)",
            "P0 █                    1       2.0 s   P5                      0         - s",
            "P1                      0         - s   P6                      0         - s",
            "P2                      0         - s   P7                      0         - s",
            "P3 ████████████       198       9.0 s   P8                      0         - s",
            "P4                      0         - s   P9 █                    1         - s",
            "",
            " #  place  score  waited  deadline  key  start  task         id",
        ]
        assert lines[10] == " 1  P3     0.500     5.0       1.0  ada    1.0  shop.report  id-1"
        assert lines[21].split()[0] == "12"
        assert lines[22] == "sorted by turn, 200 of 200 read"
        assert lines[23].startswith("q quit  ? help")

    def test_more_rows_show_more_tasks(self) -> None:
        lines = texts(view(*MANY), 200, 50)
        assert len(lines) == 50
        assert [line.split()[0] for line in lines[10:48]] == [str(number) for number in range(1, 39)]

    @given(
        st.integers(1, 250),
        st.integers(1, 60),
        st.text(max_size=30),
        st.sampled_from([{}, {"pane": HELP.splitlines()}, {"error": "away"}, {"typing": "漢" * 99}, {"figures": None}]),
    )
    def test_fills_any_terminal_and_no_more(self, width: int, height: int, text: str, changes: dict[str, Any]) -> None:
        texts: dict[str, Any] = {
            "question": f"cancel {text}?",
            "message": text,
            "message_until": NOW + 1,
            "warned": text,
        }
        tasks = [turn(1, name=text, key=text), turn(2, name=HOSTILE, key="漢字" * 20), *MANY[:60]]
        for look in (replace(view(*tasks), **changes), view(*tasks, **texts)):
            lines = screen_lines(look, width, height, NOW)
            assert len(lines) == height
            for line in lines:
                shown = "".join(piece for _, piece in line)
                assert wide(shown) <= width
                assert shown.isprintable()
                assert {style for style, _ in line} <= {*STYLES, ""}

    def test_the_selected_task_stays_in_sight(self) -> None:
        look = view(*MANY)
        for _ in range(50):
            look = look.step(1)
        (selected,) = [line for line in screen_lines(look, 80, 24, NOW) if line[0][0] == "selected"]
        assert selected[0][1].split()[0] == "51"

    def test_what_was_done_is_told_for_a_while(self) -> None:
        look = view(*MANY, message="bump: done", message_until=NOW + 5)
        assert texts(look)[22] == "bump: done"
        assert texts(look, now=NOW + 6)[22] == "sorted by turn, 200 of 200 read"

    def test_a_question_is_asked_in_the_narrowest_terminal(self) -> None:
        assert texts(view(question="cancel shop.report 679cb899?"), 20)[22] == "cancel shop.r… (y/n)"

    def test_before_the_first_read(self) -> None:
        assert texts(View("celery"))[1] == "reading ..."
        assert texts(View("celery", error="the broker does not answer: refused"))[1] == (
            "! the broker does not answer: refused"
        )


class TestPane:
    def test_help_fits_80_by_24(self) -> None:
        look = view(*MANY).open(HELP.splitlines())
        assert texts(look)[9:22] == [*HELP.splitlines(), *[""] * 5]

    LINES: Final = [f"line {number}" for number in range(30)]

    def test_scrolls_to_its_end_and_no_further(self) -> None:
        look = view(*MANY).open(self.LINES)
        room = room_for(look, 24)
        assert texts(look)[9] == "line 0"
        for by, first in ((1, 1), (99, 30 - room), (-1, 29 - room), (-99, 0)):
            look = look.scroll(by, room)
            assert texts(look)[9] == f"line {first}"

    def test_leaves_no_line_out_below_once_the_terminal_grew(self) -> None:
        look = view(*MANY).open(self.LINES)
        look = look.scroll(99, room_for(look, 24))
        assert "line 0" in texts(look, 200, 50)


class TestAlarms:
    def test_none_while_all_is_well(self) -> None:
        assert alarms(view(turn(1, deadline=NOW + 1)), NOW) == []

    @pytest.mark.parametrize(
        ("look", "expected"),
        [
            (view(paused=True), "paused: p resumes"),
            (view(stats=queue(leader=None)), "no reprioritizer leads"),
            (view(workers=Workers()), "no worker answers"),
            (view(turn(1, deadline=NOW - 1), turn(2, deadline=NOW - 2)), "2 tasks past the deadline"),
            (view(stats=queue(oldest=[None, 301.0])), "starving: the oldest waits for 301 s"),
            (view(stats=queue(oldest=[None, 9000.0]), patience=None), "the oldest waits for 2.5 h"),
            (view(error="the broker does not answer: refused"), "the broker does not answer: refused"),
            (view(warned="the policy failed"), "the policy failed"),
        ],
    )
    def test_one_each(self, look: View, expected: str) -> None:
        assert alarms(look, NOW) == [expected]

    def test_patience_is_the_policys(self) -> None:
        assert alarms(view(stats=queue(oldest=[301.0]), patience=600.0), NOW) == []


class TestAsked:
    TURNS: Final = (
        turn(1, score=0.1, waited=9, key="eve", deadline=NOW + 9),
        turn(2, score=0.9, waited=1, key=None),
        turn(3, score=0.5, waited=5, key="ada", deadline=NOW + 1),
    )

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            (Sort.TURN, [1, 2, 3]),
            (Sort.SCORE, [2, 3, 1]),
            (Sort.WAIT, [1, 3, 2]),
            (Sort.DEADLINE, [3, 1, 2]),
            (Sort.KEY, [3, 1, 2]),
        ],
    )
    def test_sorts(self, sort: Sort, expected: list[int]) -> None:
        assert [turn.position for turn in view(*self.TURNS, sort=sort).turns()] == expected

    def test_all_sorts_in_turn(self) -> None:
        assert [sort.next() for sort in Sort] == [Sort.SCORE, Sort.WAIT, Sort.DEADLINE, Sort.KEY, Sort.TURN]

    def test_selects_within_the_tasks(self) -> None:
        look = view(*self.TURNS)
        assert [look.step(by).selected for by in (-9, 0, 1, 9)] == ["id-1", "id-1", "id-2", "id-3"]
        assert View("celery").step(1).chosen() is None

    def test_beside_one_that_goes(self) -> None:
        look = view(*self.TURNS)
        assert [replace(look, selected=f"id-{number}").leave().selected for number in (1, 2, 3)] == [
            "id-2",
            "id-3",
            "id-2",
        ]
        assert view(turn(1)).leave().selected == "id-1"

    def test_of_a_selected_task_that_is_gone_the_first_is_left(self) -> None:
        chosen = view(*self.TURNS, selected="gone").chosen()
        assert chosen is not None
        assert chosen.task.id == "id-1"

    def test_takes_what_was_read_for_what_is_asked(self) -> None:
        look, figures = view(*self.TURNS, error="away"), view(turn(1)).figures
        assert figures is not None
        taken = look.take(look, figures, "odd")
        assert (taken.figures, taken.error, taken.warned) == (figures, "", "odd")
        for changes in ({"queue": "mails"}, {"text": "x"}, {"held": True}, {"frozen": True}):
            changed = replace(look, **changes)
            assert changed.take(look, figures, "") is changed, changes
        assert replace(look, figures=None, frozen=True).take(look, figures, "").figures is figures, (
            "frozen before it was read"
        )


class TestKeys:
    TURNS: Final = (turn(1), turn(2))

    def keys(self, *queues: str) -> tuple[Keys, State, Mock]:
        state, background = State(view(*self.TURNS, pane=("explained",), selected="id-2", frozen=True)), Mock()
        return Keys(state, background, queues, lambda: (80, 24), Mock()), state, background

    @pytest.mark.parametrize("pressed", ["/x\n", "H", "\t"])
    def test_nothing_is_done_to_what_was_shown_before(self, pressed: str) -> None:
        keys, state, background = self.keys("celery", "mails")
        for key in pressed:
            keys.next_queue() if key == "\t" else keys.press(key)
        assert (state.view.figures, state.view.pane, state.view.selected, state.view.frozen) == (None, (), "", False)
        background.look.assert_called_once()
        for key in "bhrce":
            keys.press(key)
        background.do.assert_not_called()
        assert not state.view.question

    def test_the_only_queue_stays_as_it_is(self) -> None:
        keys, state, background = self.keys("celery")
        before = state.view
        keys.next_queue()
        assert state.view is before
        background.look.assert_not_called()

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_an_explanation_is_shown_where_it_was_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, *, elsewhere: bool
    ) -> None:
        monkeypatch.setattr(top_keys, "explanation_lines", lambda *_: ["why"])
        keys, state, background = self.keys("celery", "mails")
        keys.press("e")
        (explain,) = background.do.call_args.args
        if elsewhere:
            keys.next_queue()
        explain(Mock())
        assert (state.view.pane, state.view.selected) == (((), "") if elsewhere else (["why"], "id-2"))


class TestStderr:
    def test_is_kept_from_the_terminal_and_told_afterwards(self) -> None:
        ours, theirs = os.openpty()
        kept, stderr = os.dup(theirs), sys.stderr
        sys.stderr = os.fdopen(theirs, "w", 1)
        try:
            with aside() as written:
                assert written.news() == ""
                print("printed")
                os.write(sys.stderr.fileno(), b"logged\nlogged\n")
                assert written.news() == "logged"
                os.write(kept, b"screen\n")
            seen = b""
            while b"logged" not in seen:  # a terminal hands over what it is given piece by piece
                seen += os.read(ours, 1000)
            assert seen.split() == [b"screen", b"printed", b"logged"]
        finally:
            sys.stderr.close()
            sys.stderr = stderr
            os.close(kept)
            os.close(ours)
