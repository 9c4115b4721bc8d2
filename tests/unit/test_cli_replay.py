"""``dynprio replay``: what it prints, and what it refuses."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_dynprio import Age, DynPrio, Weight
from celery_dynprio.cli import dynprio
from celery_dynprio.configuration.declarations import data_of
from celery_dynprio.lab.formats import jsonl
from celery_dynprio.lab.formats.opening import open_recording
from celery_dynprio.lab.recording import Entry, Slots, Task

#: Policies that tests name by their places.
other = 3 * Weight() + 1 * Age(saturation=60)
other_again = 3 * Weight() + 1 * Age(saturation=60)
by_age = 1 * Age(saturation=1000)


@pytest.fixture(name="recording")
def _recording(tmp_path: Path) -> Path:
    drawn, at = random.Random(2), 0.0
    entries: list[Entry] = [Slots(0.0, "one", 2)]
    for _ in range(300):
        at += drawn.expovariate(1.0)
        name, key = drawn.choice(["shop.checkout", "shop.report"]), drawn.choice(["ann", "bob", "cid"])
        short = name == "shop.checkout"
        weight, deadline = (9.0, 5.0) if short else (1.0, None)
        entries.append(Task(at, name, drawn.expovariate(1.0 if short else 0.4), key, weight, deadline))
    path = tmp_path / "recording.jsonl.gz"
    jsonl.write(path, entries)
    return path


def replay(*args: object) -> Result:
    app = Celery("cli", broker="redis://127.0.0.1:1/0", set_as_current=False)
    DynPrio(app)
    context = CLIContext(app=app, no_color=True, workdir=None)
    return CliRunner().invoke(dynprio, ["replay", *map(str, args)], obj=context)


def found(*args: object) -> dict[str, Any]:
    result = replay(*args, "--json")
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_a_replay_is_shown_in_tables(recording: Path) -> None:
    result = replay(recording, "--workers", 2, "--load", 0.95, "--policy", "app", "--policy", f"{__name__}:other")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("300 tasks in ")
    assert lines[0].endswith("2 slots, offered load 0.95, a tick every 1 s")
    assert lines[1].startswith("Played once, as it is: differences may be chance.")
    assert lines[2].startswith("Open loop: ")
    first_words = {line.partition("  ")[0] for line in lines}
    names = {"app", "other", "first come", "static priorities", "round robin by key", "earliest deadline"}
    assert names <= first_words
    assert {"app, exact order *", "other, exact order *", "shortest job (known run times) *"} <= first_words
    assert {"wait by class", "shop.checkout", "slowdown by key", "ann"} <= first_words
    assert "where app loses:" in lines
    assert any(line.startswith("other has ") for line in lines)


def test_seeds_give_confidence_intervals(recording: Path) -> None:
    result = replay(recording, "--workers", 2, "--load", 0.95, "--seeds", 3)
    assert "Played 3 times, with the blocks of the recording in a random order; figures are means." in result.stdout
    shown = found(recording, "--workers", 2, "--load", 0.95, "--seeds", 3)
    wait = shown["contenders"][0]["mean_wait"]
    assert wait["low"] < wait["mean"] < wait["high"]
    assert shown == found(recording, "--workers", 2, "--load", 0.95, "--seeds", 3)


def test_without_workers_those_of_the_trace_work(recording: Path) -> None:
    shown = found(recording)
    assert (shown["workers"], shown["load"], shown["tasks"]) == (None, None, 300)
    assert 0 < shown["contenders"][0]["utilization"] < 1


def test_what_is_played_can_be_saved(recording: Path, tmp_path: Path) -> None:
    saved = tmp_path / "played.swf"
    shown = found(recording, "--workers", 4, "--load", 0.5, "--mean-run", "2s", "--tasks", 50, "--save", saved)
    assert (shown["tasks"], round(shown["load"], 6)) == (50, 0.5)
    runs = [entry.run for entry in open_recording(saved)() if isinstance(entry, Task)]
    assert sum(runs) / len(runs) == pytest.approx(2.0, abs=0.001)


def test_a_page_is_written(recording: Path, tmp_path: Path) -> None:
    found(recording, "--tasks", 50, "--workers", 1, "--html", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_options_of_others_traces_and_classes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{job} {job} -1 2 1 -1 -1 1 -1 -1 1 {job % 5} 1 -1 -1 -1 -1 -1\n" for job in range(40)))
    tiers = ("--tiers", "9:0.5:30s,1:0.5", "--keys", 2, "--class", "weight")
    shown = found(log, "--format", "swf", "--workers", 1, *tiers)
    policy = shown["contenders"][0]
    assert set(policy["classes"]) == {"weight 9", "weight 1"}
    assert set(policy["keys"]) == {"key-0", "key-1"}
    assert policy["classes"]["weight 9"]["in_time"] is not None


TWO = ("--policy", f"{__name__}:other", "--policy", f"{__name__}:by_age")
LOADED = ("--workers", 2, "--load", 1.3, "--tick", 5, "--seeds", 20)


def test_a_changed_policy_that_keeps_what_was_promised_passes(recording: Path) -> None:
    result = replay(recording, *LOADED, *TWO, "--fail-if-worse", "checkout p95", "--fail-if-worse", "in time")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line.partition(" is ")[0] for line in lines] == [
        "Kept: wait of shop.checkout, p95",
        "Kept: started in time",
    ]
    assert " s, with the other policy " in lines[0]
    assert " s (difference -" in lines[0]


def test_one_that_is_worse_by_more_than_the_noise_fails(recording: Path) -> None:
    back = ("--policy", f"{__name__}:by_age", "--policy", f"{__name__}:other")
    promises = ("--fail-if-worse", "mean checkout", "--fail-if-worse", "report p95")
    result = replay(recording, *LOADED, *back, *promises, "--json")
    assert result.exit_code == 1
    assert [line.partition(" is ")[0] for line in result.stderr.splitlines()] == [
        "Worse: mean wait of shop.checkout",
        "Kept: wait of shop.report, p95",
    ]
    assert json.loads(result.stdout)["seeds"] == 20


def test_a_policy_that_did_not_change_keeps_every_promise(recording: Path) -> None:
    same = ("--policy", f"{__name__}:other", "--policy", f"{__name__}:other_again")
    result = replay(recording, *LOADED, *same, "--fail-if-worse", "report p95", "--fail-if-worse", "longest")
    assert result.exit_code == 0
    assert result.stderr.count("Kept: ") == 2


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--load", 1), "--load is about slots: give --workers too"),
        (("--seeds", 2), "seeds = 2: a resampled recording has other times than its workers; give their number"),
        (("--tiers", "9"), "tiers = '9': '9' is not weight:share[:deadline]"),
        (("--policy", "nowhere:policy"), "--policy 'nowhere:policy': "),
        (("--save", "recording.csv"), "recording = 'recording.csv': "),
        (("--fail-if-worse", "in time"), "--fail-if-worse compares two policies: give --policy twice"),
        ((*TWO, "--fail-if-worse", "checkout"), "--fail-if-worse = 'checkout': which of these: mean wait of shop"),
        (("--format", "swf"), "is not a job in Standard Workload Format"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(recording: Path, args: tuple[object, ...], problem: str) -> None:
    result = replay(recording, *args)
    assert result.exit_code in {1, 2}
    assert problem in result.output
    assert "Traceback" not in result.output


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """What a recorder writes of ten tasks on one slot, first come, first served."""
    policy, path = 1 * Age(saturation=60), tmp_path / "real.jsonl"
    about = {
        "policy": repr(policy), "declared": data_of(policy), "queues": ["celery"], "interval": 1.0, "window": 100,
        "hysteresis": 0.25, "budget": 0.2, "half_life": 600.0, "levels": [0, 3, 6, 9], "plain_levels": [0, 3, 6, 9],
        "prefetch": 0,
    }  # fmt: skip
    lines = [jsonl.header(at=0.0, workers={"one": 1}, **about)]
    for number in range(10):
        waited = 2.0 * number - 0.1 * number
        task = {"at": 0.1 * number, "name": f"shop.{number % 2}", "run": 1.9, "waited": waited, "worker": "one"}
        lines.append(jsonl.line_of({**task, "process": 7}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_how_faithful_a_replay_is_is_shown_beside_it(real: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    shown = found(real, "--html", html)
    assert shown["turnaround"] == pytest.approx(0.1)
    assert shown["fidelity"]["unknown"] is None
    assert [each["name"] for each in shown["fidelity"]["waits"]] == ["all tasks", "shop.0", "shop.1"]
    for each in shown["fidelity"]["waits"]:
        assert each["recorded"] == pytest.approx(each["replayed"])
        assert each["error"] == pytest.approx(0.0, abs=1e-9)
    assert "How faithful the replay is" in html.read_text()
    result = replay(real)
    assert "one slot" not in result.stdout
    assert "100 ms between two runs" in result.stdout
    assert "the mean wait is +0% off the recorded one, by class +0% to +0%." in result.stdout
    assert re.search(r"^all tasks +10 +8\.6 +8\.6 +\+0%$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            '"factor": "age"',
            '"factor": "gone"',
            "give the policy that was in force, 1 * Age(saturation=60), with --policy",
        ),
        ('"waited"', '"no"', "the recording tells of no task how long it waited"),
    ],
)
def test_why_fidelity_is_not_known_is_said(real: Path, before: str, after: str, problem: str) -> None:
    real.write_text(real.read_text().replace(before, after))
    result = replay(real)
    assert f"Fidelity is not known: {problem}." in result.stdout
    assert found(real)["fidelity"] == {"unknown": problem, "waits": []}


def test_a_policy_that_plain_data_cannot_say_is_found_among_those_that_are_given(real: Path) -> None:
    real.write_text(
        real.read_text().replace('"factor": "age"', '"factor": "gone"').replace("saturation=60", "saturation=1000")
    )
    shown = found(real, "--policy", f"{__name__}:by_age")
    assert shown["fidelity"]["unknown"] is None


def test_what_no_recorder_wrote_has_no_fidelity(recording: Path) -> None:
    assert found(recording)["fidelity"] is None
    assert "Fidelity" not in replay(recording).stdout


def test_settings_that_changed_meanwhile_leave_fidelity_unknown(real: Path) -> None:
    text = real.read_text()
    real.with_name("real.20260131-235959-000.jsonl").write_text(text.replace('"interval": 1.0', '"interval": 2.0'))
    assert found(real)["fidelity"]["unknown"] == "settings changed while it was recorded"
