"""The recipe for continuous integration: its own commands, in a repository of a user, on both kinds of changes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from celery_dynprio.lab.formats import jsonl
from celery_dynprio.lab.recording import Task

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs/examples/policy_check.yml"

APP = """
from celery import Celery
from celery_dynprio import DynPrio
from proj.policies import policy

app = Celery("proj", broker="redis://127.0.0.1:1/0")
app.conf.dynprio_policy = policy
app.conf.dynprio_interval = 5
dynprio = DynPrio(app)
"""
POLICY = "from celery_dynprio import Age, Deadline, Weight\n\npolicy = {}\n"
GOOD = "4 * Deadline(horizon=60) + 2 * Weight() + 1 * Age(saturation=300)"
BAD = "1 * Age(saturation=3000)"


def record(path: Path) -> None:
    """More than eight workers can do, of checkouts with deadlines and reports without."""
    drawn, at, tasks = random.Random(7), 0.0, []
    for _ in range(600):
        at += drawn.expovariate(10.0)
        urgent = drawn.random() < 0.3
        name, weight, deadline = ("shop.checkout", 9.0, 3.0) if urgent else ("shop.report", 1.0, None)
        tasks.append(Task(at, name, drawn.expovariate(1.0), drawn.choice("abc"), weight, deadline))
    jsonl.write(path, tasks)


def git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.com")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


def pull_request(folder: Path, policy: str) -> Path:
    """A clone in which a branch changes the policy."""
    origin, clone = folder / "origin", folder / "clone"
    package = origin / "proj"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "celery.py").write_text(APP)
    (package / "policies.py").write_text(POLICY.format(GOOD))
    git(origin, "init", "--quiet", "--initial-branch", "main")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "the policy as it is")
    git(folder, "clone", "--quiet", str(origin), str(clone))
    git(clone, "switch", "--quiet", "--create", "change")
    (clone / "proj/policies.py").write_text(POLICY.format(policy))
    return clone


def steps() -> Mapping[str, str]:
    """The commands of the recipe by the names of their steps."""
    recipe: Any = yaml.safe_load(RECIPE.read_text())
    return {step["name"]: step["run"] for step in recipe["jobs"]["replay"]["steps"] if "run" in step}


def run_recipe(clone: Path) -> subprocess.CompletedProcess[str]:
    """Run all but the installation, one after the other, as GitHub does; what the last one says."""
    recording = clone.parent / "recording.jsonl.gz"
    record(recording)
    recipe: Any = yaml.safe_load(RECIPE.read_text())
    env = {
        **os.environ,
        **recipe["jobs"]["replay"]["env"],
        "URL": recording.as_uri(),
        "GITHUB_BASE_REF": "main",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    commands = [command for name, command in steps().items() if name != "Install the project"]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=clone, env=env, check=False, capture_output=True, text=True
        )
        if done.returncode:
            break
    return done


@pytest.mark.slow
def test_a_change_that_breaks_a_promise_fails(tmp_path: Path) -> None:
    done = run_recipe(pull_request(tmp_path, BAD))
    assert done.returncode == 1, done.stderr
    told = done.stderr.splitlines()
    assert [line.partition(" is ")[0] for line in told] == [
        "Worse: started in time",
        "Worse: wait of shop.checkout, p95",
    ]
    assert (tmp_path / "clone/policy.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [GOOD, GOOD.replace("4 *", "5 *")])
def test_a_change_that_keeps_all_promises_passes(tmp_path: Path, policy: str) -> None:
    done = run_recipe(pull_request(tmp_path, policy))
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["Kept", "Kept"]


def test_the_page_shows_the_recipe_and_it_has_at_most_fifty_lines() -> None:
    recipe = RECIPE.read_text()
    assert len(recipe.splitlines()) <= 50
    assert f"```yaml\n{recipe}```" in (ROOT / "docs/how-to/check-a-policy.md").read_text()
