"""Policies that are composed in the browser: numbers and known factors only; and outlooks, one at a time."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.ordering import Turn
from celery_dynprio.engine.scene import Scene
from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.lab.outlook import OutlookStoppedError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.monitoring.flower.terms import KNOWN, MOST_TERMS, policy_objects, read_policy
from celery_dynprio.monitoring.flower.tryout import MOST_REQUESTS, Tryout
from celery_dynprio.policies import Age, Deadline, FairShare, Gauge, Policy, Weight
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.settings import Settings

OWN = 3 * Weight() + 1 * Age(saturation=60) + 2 * Gauge(0.5, name="load")
TERMS = json.dumps([{"weight": 1, "factor": "Age", "parameters": {"saturation": 9}}])


class TestTerms:
    def test_what_the_page_is_sent_comes_back_as_the_policy_in_force(self) -> None:
        sent = json.loads(json.dumps(policy_objects(OWN)))["terms"]
        assert [(each["factor"], each["weight"]) for each in sent[:4]] == [
            ("Weight", 3),
            ("Age", 1),
            ("load", 2),
            ("Deadline", 0.0),
        ]
        assert [each["parameters"] for each in sent[:3]] == [{}, {"saturation": 60.0}, None]
        back = [{"weight": each["weight"], "term": each["term"]} for each in sent if "term" in each]
        assert read_policy(json.dumps(back), OWN).terms == OWN.terms
        known = [
            {name: each[name] for name in ("weight", "factor", "parameters")} for each in sent if "term" not in each
        ]
        assert {each["factor"] for each in known} | {"Weight", "Age"} == set(KNOWN)
        assert read_policy(json.dumps([*back, *known]), OWN).terms == OWN.terms, "a weight of 0 leaves a term out"

    def test_a_known_factor_with_other_numbers(self) -> None:
        given = [{"weight": 2, "factor": "Deadline", "parameters": {"horizon": 30}}, {"weight": 1.5, "term": 2}]
        assert repr(read_policy(json.dumps(given), OWN)) == repr(2 * Deadline(30) + 1.5 * OWN.terms[2][1])

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nonsense",
            "[" * 4000,
            "{}",
            "[]",
            "[1]",
            json.dumps([{"weight": 1, "term": 0}] * (MOST_TERMS + 1)),
            '[{"weight": 1}]',
            '[{"weight": 0, "term": 0}]',
            '[{"weight": -1, "term": 0}]',
            '[{"weight": NaN, "term": 0}]',
            '[{"weight": Infinity, "term": 0}]',
            '[{"weight": true, "term": 0}]',
            '[{"weight": "1", "term": 0}]',
            '[{"weight": 1, "term": 3}]',
            '[{"weight": 1, "term": -1}]',
            '[{"weight": 1, "term": true}]',
            '[{"weight": 1, "term": 0, "factor": "Age", "parameters": {}}]',
            '[{"weight": 1, "factor": "Gauge", "parameters": {}}]',
            '[{"weight": 1, "factor": ["Age"], "parameters": {}}]',
            '[{"weight": 1, "factor": "__import__(\'os\')", "parameters": {}}]',
            '[{"weight": 1, "factor": "Age", "parameters": []}]',
            '[{"weight": 1, "factor": "Age", "parameters": {"saturation": 0}}]',
            '[{"weight": 1, "factor": "Age", "parameters": {"saturation": "5m"}}]',
            '[{"weight": 1, "factor": "Age", "parameters": {"__class__": 1}}]',
            '[{"weight": 1, "factor": "Deadline", "parameters": {"finish": 2}}]',
            '[{"weight": 1, "factor": "FairShare", "parameters": {"separator": 1}}]',
            '[{"weight": 1, "factor": "FairShare", "parameters": {"shares": 1}}]',
            '[{"weight": 1e308, "term": 0}, {"weight": 1e308, "term": 1}]',
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ArgumentError):
            read_policy(text, OWN)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda each: (
                st.lists(each)
                | st.dictionaries(st.sampled_from(["weight", "term", "factor", "parameters", "saturation"]), each)
            ),
        )
    )
    def test_whatever_is_sent_is_a_policy_or_refused(self, found: Any) -> None:
        with suppress(ArgumentError):
            assert isinstance(read_policy(json.dumps(found), OWN), Policy)

    def test_factors_that_take_more_than_numbers_keep_what_they_have(self) -> None:
        shares = 1 * FairShare(shares={"gold": 4})
        assert policy_objects(shares)["terms"][0]["parameters"] is None


class TestTryout:
    def tryout(self, scenes: Any) -> Tryout:
        return Tryout(Celery("shop", set_as_current=False), scenes)

    @property
    def settings(self) -> Any:
        return SimpleNamespace(
            **{name: getattr(Settings(), name) for name in ("window", "hysteresis", "budget", "half_life", "interval")},
            queues=("celery",),
            policy=OWN,
        )

    def scene(self) -> Scene:
        task = PendingTask("1", "shop.report", 995.0, key="ada")
        return Scene(
            "celery", Context(1000.0, Runtimes({"shop.report": 2.0})), [Turn("celery", task, 3, 1, 0.5, 5.0)], {"w": 1}
        )

    def test_who_starts_when(self) -> None:
        found = self.tryout(lambda: [self.scene()]).ask(self.settings, "celery", TERMS, threading.Event()).result(60)
        assert (found["queue"], found["at"], found["played"], found["tasks"][0]["task"]) == (
            "celery",
            1000.0,
            1,
            "shop.report",
        )
        nothing = {"low": 0.0, "median": 0.0, "high": 0.0}
        assert found["paths"] == [{"id": "1", "task": "shop.report", "key": "ada", "now": nothing, "then": nothing}]

    def test_it_is_not_played_for_who_has_left(self) -> None:
        gone, read = threading.Event(), []

        def scenes() -> list[Scene]:
            read.append(1)
            gone.set()
            return [self.scene()]

        tryout = self.tryout(scenes)
        with pytest.raises(OutlookStoppedError):
            tryout.ask(self.settings, "celery", TERMS, gone).result(60)
        assert tryout.ask(self.settings, "celery", TERMS, gone).result(60) == {}
        assert read == [1], "the second left before its turn"

    def test_few_wait_and_the_rest_are_refused_at_once(self) -> None:
        gate = threading.Event()

        def scenes() -> list[Scene]:
            assert gate.wait(60)
            return [self.scene()]

        tryout = self.tryout(scenes)
        asked = [tryout.ask(self.settings, "celery", TERMS, threading.Event()) for _ in range(MOST_REQUESTS)]
        with pytest.raises(DynPrioError, match="try again in a few seconds"):
            tryout.ask(self.settings, "celery", TERMS, threading.Event())
        gate.set()
        assert [each.result(60)["played"] for each in asked] == [1] * MOST_REQUESTS
        assert tryout.ask(self.settings, "celery", TERMS, threading.Event()).result(60)["played"] == 1

    def test_a_queue_that_is_not_managed(self) -> None:
        with pytest.raises(ArgumentError, match="not managed"):
            self.tryout(list).ask(self.settings, "other", TERMS, threading.Event())
