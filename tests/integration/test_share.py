"""``dynprio share``: shares that operators set, and what ``explain`` says of fair share."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_dynprio import DynPrio, FairShare, Max, Weight, dynprio_task
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.cli import dynprio
from celery_dynprio.models import Run, RunningTask
from tests.apps import make_app
from tests.servers import Database


@pytest.fixture
def app(valkey: Database) -> Celery:
    app = make_app(valkey.url)
    app.conf.dynprio_policy = 2 * Weight() + 1 * Max(FairShare(shares={"gold": 4}), Weight())
    DynPrio(app)
    return app


def ran(app: Celery, *args: str, code: int = 0) -> str:
    result = CliRunner().invoke(dynprio, args, obj=CLIContext(app=app, no_color=True, workdir=None))
    assert result.exit_code == code, result.output
    return result.output


def test_a_share_is_set_listed_and_removed_and_all_of_it_is_in_the_log(app: Celery) -> None:
    assert ran(app, "share", "list") == "No shares are set.\n"
    assert ran(app, "share", "set", "tenant 7", "4", "--why", "they pay") == "tenant 7: share 4 until it is removed\n"
    assert ran(app, "share", "set", "", "0.5", "--for", "2h").startswith("(no key): share 0.5 until 2")
    listed = json.loads(ran(app, "share", "list", "--json"))["shares"]
    assert [(each["key"], each["share"]) for each in listed] == [("", 0.5), ("tenant 7", 4.0)]
    assert listed[0]["until"] == pytest.approx(time.time() + 7200, abs=60)
    assert ran(app, "share", "list").splitlines()[2].split() == ["tenant", "7", "4", "-"]
    assert ran(app, "share", "remove", "tenant 7") == "tenant 7: the policy's share counts again\n"
    assert "no share is set for key 'tenant 7'" in ran(app, "share", "remove", "tenant 7", code=1)
    entries = json.loads(ran(app, "log", "--json"))["entries"]
    assert [(each["op"], each["answer"], each["why"]) for each in entries] == [
        ("share", "tenant 7: removed", ""),
        ("share", "no key: 0.5 for 7200 s", ""),
        ("share", "tenant 7: 4", "they pay"),
    ]


@pytest.mark.parametrize("wrong", [["x", "0"], ["x", "nan"], ["x" * 201, "1"], ["x", "1", "--for", "0"]])
def test_a_wrong_share_is_refused(app: Celery, wrong: list[str]) -> None:
    assert "use " in ran(app, "share", "set", *wrong, code=2)
    assert ran(app, "share", "list") == "No shares are set.\n"


def test_an_explanation_tells_what_fair_share_counts(app: Celery, valkey: Database) -> None:
    @dynprio_task(key="tenant", name="work", app=app)
    def work(tenant: str) -> None: ...

    client = RedisClient.from_app(app)
    RedisUsage(client).add([Run("work", "gold", 20.0), Run("work", "iron", 20.0)])
    RedisRunning(client).start([RunningTask("1", "work", "gold", time.time() - 30)], time.time())
    task: Any = work
    ids = [task.delay("gold").id for _ in range(3)]
    told = json.loads(ran(app, "explain", "--json", ids[2]))
    account = told["fair_share"]
    assert account == {
        "used": pytest.approx(20, abs=1),
        "running": pytest.approx(30, abs=5),
        "ahead": pytest.approx(40, abs=1),
        "share": 4.0,
    }
    factor = next(each for each in told["factors"] if each["factor"] == "Max")
    usual = sum((20, account["running"], 20)) / 5
    counts = (account["used"] + account["running"] + account["ahead"]) / 4
    assert factor["value"] == pytest.approx(usual / (usual + counts), abs=0.02)
    ran(app, "share", "set", "gold", "2")
    (line,) = (each for each in ran(app, "explain", ids[0]).splitlines() if each.startswith("fair share"))
    assert line.split("; ")[1] == "share 2"
    assert "0.0 s before it" in line
    client.close()
