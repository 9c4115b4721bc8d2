"""Policies and objectives as plain data, and what wrong data says."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

from celery_dynprio import Age, Deadline, Factor, Objective, Weight, factor
from celery_dynprio.configuration.declarations import objectives_of, policy_of
from celery_dynprio.errors import DynPrioError, SettingError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Scorer
from celery_dynprio.settings import Settings

DATA = {"deadline": {"weight": 4, "horizon": "1m"}, "weight": 2, "age": {"saturation": 300}}
FORMULA = "4 * Deadline(horizon=60.0) + 2 * Weight() + 1 * Age(saturation=300)"


class Paying(Factor):
    def __init__(self, least: int = 1) -> None:
        self.least = least

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - all score alike
        return lambda _: 1.0

    def __repr__(self) -> str:
        return f"Paying({self.least})"


@factor
def urgent(task: PendingTask, context: Context) -> float:
    return 1.0


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    proj = ModuleType("proj_data")
    vars(proj).update(Paying=Paying, urgent=urgent, load=lambda: 0.5, data=DATA, tell=print, number=3)
    monkeypatch.setitem(sys.modules, "proj_data", proj)


@pytest.mark.parametrize(
    ("data", "formula"),
    [
        (DATA, FORMULA),
        (
            {"fair_share": 3, "ShortestFirst": {"scale": "2m"}},
            "3 * FairShare() + 1 * ShortestFirst(scale=120.0)",
        ),
        (["age", {"factor": "weight", "weight": 0.5}], "1 * Age(saturation=300.0) + 0.5 * Weight()"),
        ({"proj_data:urgent": 2, "proj_data:Paying": {"weight": 3, "least": 5}}, "2 * urgent + 3 * Paying(5)"),
        (
            [{"factor": "max", "weight": 2, "of": ["weight", {"factor": "age", "saturation": 60}]}],
            "2 * Max(Weight(), Age(saturation=60))",
        ),
        (
            {"gauge": {"source": "proj_data:load", "high": 90, "match": "reports.*", "otherwise": 1, "name": "load"}},
            "1 * Gauge(load, low=0.0, high=90, match='reports.*', otherwise=1)",
        ),
    ],
)
def test_policies(data: Any, formula: str) -> None:
    assert repr(policy_of(data)) == formula
    assert repr(policy_of(json.loads(json.dumps(data)))) == formula


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "give it one factor at least"),
        ({"dedline": 1}, "no such factor 'dedline'; did you mean deadline?"),
        (
            {"xyz": 1},
            "no such factor 'xyz'; use age, deadline, dependents, fair_share, gauge, max, min, shortest_first, weight",
        ),
        ({"age": {"satur": 1}}, "age: no such option 'satur'; did you mean saturation?"),
        ({"weight": {"scale": 1}}, "weight: no such option 'scale'; it has none"),
        ({"age": {"saturation": "soon"}}, "Age(saturation='soon'): use seconds as a number"),
        ({"age": "much"}, "weight 'much' of Age(saturation=300.0): use a finite number above 0"),
        ({"gauge": 1}, "gauge: source is missing"),
        ({"max": {"of": ["age"]}}, "Max of 1 factors: use two or more"),
        ({"max": {"factors": ["age"]}}, "max: no such option 'factors'; use of"),
        ({"max": {"of": [{"factor": "age", "weight": 2}, "weight"]}}, "age: no such option 'weight'; use saturation"),
        ([3], '3: use a dict such as {"factor": "age"'),
        ({"proj_data:absent": 1}, "proj_data:absent cannot be imported: "),
        ({"proj_data:number": 1}, "proj_data:number is 3: use a factor, or a class or function that makes one"),
        ({"proj_data:urgent": {"least": 1}}, "proj_data:urgent is a factor as it stands, and takes none of least"),
    ],
)
def test_wrong_policies(data: Any, said: str) -> None:
    with pytest.raises(DynPrioError) as caught:
        policy_of(data)
    assert str(caught.value).startswith(said)


def test_objectives() -> None:
    fields = {"match": ["shop.*"], "within": "5s", "window": "2m", "on_breach": "degrade", "expendable": "reports.*"}
    expected = Objective(
        "checkouts", ["shop.*"], 5.0, window=120.0, on_breach="degrade", expendable="reports.*", hook=print
    )
    fields["hook"] = "proj_data:tell"
    assert objectives_of({"checkouts": fields}) == (expected,)
    assert objectives_of([{"name": "checkouts", **fields}, expected]) == (expected, expected)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"soon": 5}, 'soon is 5: use a dict such as {"match": "shop.checkout", "within": 5}'),
        ([{"match": "a", "within": 1}], "an objective: name is missing"),
        ({"soon": {"match": "a"}}, "soon: within is missing"),
        ({"soon": {"match": "a", "within": 1, "windw": 5}}, "soon: no such option 'windw'; did you mean window?"),
        ({"soon": {"match": "a", "within": "later"}}, "Objective 'soon': within = 'later': use seconds as a number"),
        ({"soon": {"match": "a", "within": 1, "hook": "proj_data:absent"}}, "proj_data:absent cannot be imported: "),
    ],
)
def test_wrong_objectives(data: Any, said: str) -> None:
    with pytest.raises(DynPrioError) as caught:
        objectives_of(data)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("value", [DATA, json.dumps(DATA), "proj_data:data"])
def test_a_setting_may_be_plain_data_json_or_the_place_of_it(value: Any) -> None:
    app = Celery("declared", set_as_current=False)
    app.conf.update(dynprio_policy=value, dynprio_objectives='[{"name": "soon", "match": "*", "within": "1m"}]')
    settings = Settings.from_app(app)
    assert repr(settings.policy) == FORMULA
    assert settings.objectives == (Objective("soon", "*", 60),)


def test_the_error_names_the_setting_and_what_is_wrong_in_it() -> None:
    app = Celery("declared", set_as_current=False)
    app.conf.dynprio_policy = {"age": {"satur": 1}}
    with pytest.raises(SettingError) as caught:
        Settings.from_app(app)
    said = "dynprio_policy = {'age': {'satur': 1}}: age: no such option 'satur'; did you mean saturation?"
    assert str(caught.value) == said


def test_plain_data_scores_as_the_formula_does() -> None:
    task, context = PendingTask("id", "name", published=0.0, weight=5, deadline=130.0), Context(100.0)
    formula = 4 * Deadline(horizon=60) + 2 * Weight() + 1 * Age(saturation=300)
    assert policy_of(DATA).score(task, context) == formula.score(task, context)
