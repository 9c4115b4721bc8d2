"""``dynprio tune``: what it prints, and what it refuses."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_dynprio import Age, DynPrio, Policy, Weight, policies
from celery_dynprio.cli import dynprio
from celery_dynprio.lab.formats import jsonl
from celery_dynprio.lab.recording import Task

#: Policies that a test names by their places.
by_age = 1 * Age(saturation=1000.0) + 0.01 * Weight()
by_weight = 1 * Weight()

QUICK = ("--workers", 2, "--tick", 5, "--trials", 12, "--seeds", 20, "--split", 0.4)


@pytest.fixture(name="recording", scope="module")
def _recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn, at, entries = random.Random(2), 0.0, []
    for _ in range(500):
        at += drawn.expovariate(1.4)
        urgent = drawn.random() < 0.3
        name, weight = ("shop.checkout", 9.0) if urgent else ("shop.report", 1.0)
        entries.append(Task(at, name, drawn.expovariate(0.5), drawn.choice("abc"), weight))
    path = tmp_path_factory.mktemp("tune") / "week.jsonl.gz"
    jsonl.write(path, entries)
    return path


def tune(*args: object) -> Result:
    app = Celery("cli", broker="redis://127.0.0.1:1/0", set_as_current=False)
    DynPrio(app)
    context = CLIContext(app=app, no_color=True, workdir=None)
    return CliRunner().invoke(dynprio, ["tune", *map(str, args)], obj=context)


def found(*args: object) -> dict[str, Any]:
    result = tune(*args, "--json")
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_a_gain_is_recommended_with_what_it_costs_and_what_to_paste(recording: Path) -> None:
    place = ("--policy", f"{__name__}:by_age", "--objective", "checkout p95")
    result = tune(recording, *QUICK, *place)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Searched the first 40% of the time, ")
    assert lines[0].endswith(" tasks: tried 12 other policies.")
    assert lines[1] == "In all objectives at once, 1 of them is beaten by no other one."
    assert lines[2].startswith("Judged on the rest, which the search has not seen: ")
    assert any(line.split()[0] == "A" and line.endswith("better") for line in lines if line)
    assert "# A: better in wait of shop.checkout, p95" in lines
    assert any(line.startswith("# It costs, beside the objectives: ") for line in lines)
    assert lines[-1] == "Nothing was changed."
    (pasted,) = [line.removeprefix("dynprio_policy = ") for line in lines if line.startswith("dynprio_policy = ")]
    policy = eval(pasted, vars(policies).copy())  # noqa: S307 - as a user's settings do
    assert isinstance(policy, Policy)
    shown = found(recording, *QUICK, *place)
    assert shown["recommended"] == ["A"]
    assert shown["candidates"][0]["policy"] == pasted == repr(policy)
    assert shown["present"]["policy"] == repr(by_age)


def test_what_is_within_the_noise_is_not_recommended(recording: Path) -> None:
    result = tune(recording, *QUICK, "--objective", "idle")
    assert "there is no such measure" in result.output
    result = tune(recording, *QUICK, "--load", 0.2)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("Nothing is recommended: ")
    assert "dynprio_policy" not in result.stdout


def test_the_same_seed_finds_the_same(recording: Path) -> None:
    args = (recording, *QUICK, "--objective", "mean wait", "--objective", "longest wait", "--limit", 2)
    one = found(*args)
    assert one == found(*args)
    assert one != found(*args, "--seed", 1)
    assert one["objectives"] == ["mean wait", "longest wait"]
    assert one["trials"] == 12
    assert one["cut_short"] is False
    assert 1 <= len(one["candidates"]) <= 2
    assert one["comparisons"] == 2 * len(one["candidates"])
    assert one["searched_tasks"] + one["judged_tasks"] == 500


def test_the_search_ends_with_its_time(recording: Path) -> None:
    shown = found(recording, *QUICK, "--seconds", 0)
    assert (shown["trials"], shown["cut_short"], shown["candidates"]) == (0, True, [])


def test_a_page_is_written(recording: Path, tmp_path: Path) -> None:
    found(recording, *QUICK, "--html", tmp_path / "tuned.html")
    assert (tmp_path / "tuned.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (
            (),
            "so it needs the same workers all the time: give --workers",
        ),
        (("--workers", 2, "--split", 0.99), "split = 0.99: "),
        (("--workers", 2, "--policy", f"{__name__}:by_weight"), "it has no number to search for"),
        (("--workers", 2, "--objective", "checkout"), "--objective = 'checkout': which of these: mean wait of shop"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(recording: Path, args: tuple[object, ...], problem: str) -> None:
    result = tune(recording, *args)
    assert result.exit_code == 2
    assert problem in result.output
    assert "Traceback" not in result.output


def test_without_optuna_it_says_what_to_type(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = tune(recording, *QUICK)
    assert result.exit_code == 1
    assert result.stderr.strip() == 'Error: tuning needs a package: pip install "optuna>=4,<6"'
