"""The smallest ACL: everything works with it, and the doctor names what is missing of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from celery import Celery, chord

from celery_dynprio import DynPrio, Weight
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers import redis as backlogs
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.rights import NEEDED, RULES, TRANSACTIONS, missing
from celery_dynprio.doctor.gather import examine
from celery_dynprio.models import OVERFLOW
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.selection import Filter
from tests.conftest import MakeProject, StartWorker
from tests.servers import Database

DOCS = Path(__file__).parents[2] / "docs" / "security.md"

#: Words of the scripts that look like commands.
OPTIONS = {"COUNT", "LEFT", "LIMIT", "MAXLEN", "MINID", "PX", "RANK", "RIGHT", "WITHVALUES", "XX"}

MakeUser = Callable[..., str]


@pytest.fixture
def make_user(server: Database) -> Iterator[MakeUser]:
    """Makes a user with these rules, and returns the URL of the broker for it."""
    every, names = cast("Any", server.client), []

    def make(*rules: str) -> str:
        names.append(f"user-{uuid4().hex}")
        every.execute_command("ACL", "SETUSER", names[-1], "reset", "on", ">p", *rules)
        return server.url.replace("redis://", f"redis://{names[-1]}:p@")

    yield make
    for name in names:
        every.execute_command("ACL", "DELUSER", name)


def app_of(url: str, prefix: str = "svc:") -> Celery:
    app = Celery("shop", broker=url, backend=url, set_as_current=False)
    options = {"global_keyprefix": prefix}
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options)
    app.conf.update(dynprio_policy=1 * Weight(), dynprio_hysteresis=0.25)
    DynPrio(app)
    return app


def lacks(url: str, prefix: str = "svc:") -> str:
    app = app_of(url, prefix)
    client = RedisClient.from_app(app)
    try:
        return str(missing(client, ["celery", "mails"]))
    finally:
        client.close()
        app.close()


def test_the_docs_name_just_these_rights() -> None:
    text = DOCS.read_text()
    (line,) = re.findall(r"```\nACL SETUSER (.*?)\n```", text, re.DOTALL)
    assert line.replace("\\\n", "").split() == ["proj", "on", ">a-long-password", "~proj:*", "&*", *RULES]


def test_every_command_of_a_script_is_among_them() -> None:
    scripts = [path.read_text() for path in (files(backlogs) / "lua").iterdir()]
    code = "\n".join(line.partition("--")[0] for script in scripts for line in script.splitlines())
    assert {f"+{name.lower()}" for name in set(re.findall(r"'([A-Z]{2,})'", code)) - OPTIONS} <= set(RULES)


def test_who_has_them_lacks_nothing_and_trying_changes_nothing(server: Database, make_user: MakeUser) -> None:
    assert lacks(make_user("~svc:*", "&*", *RULES)) == ""
    assert lacks(make_user("~*", "&*", "+@all"), prefix="") == ""
    assert server.client.keys() == []


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["-lrem", "-xadd"], "run LREM, XADD"),
        (["-multi"], "run MULTI"),
        (["-watch", "-exec"], "run EXEC, WATCH"),
        (["-script"], "run SCRIPT LOAD, SCRIPT EXISTS"),
        (["resetkeys", "~svc:dynprio:*"], "use the keys svc:celery, svc:_kombu.binding.celery, svc:mails"),
        (["resetchannels"], "use the channels svc:/0.celery.pidbox, svc:/0.celery.pidbox*"),
        (["-hset", "resetkeys", "~svc:[cm_]*"], "run HSET or use the keys svc:dynprio:celery:held"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(make_user: MakeUser, rules: list[str], said: str) -> None:
    assert lacks(make_user("~svc:*", "&*", "+@all", *rules)).startswith(said)


def test_each_of_them_is_missed(valkey: Database) -> None:
    every = cast("Any", valkey.client)
    app = app_of(valkey.url.replace("redis://", "redis://each:p@"))
    for rule in RULES:
        if rule in {"+select", "+ping"}:  # without them there is no connection to try anything over
            continue
        every.execute_command("ACL", "SETUSER", "each", "reset", "on", ">p", "~svc:*", "&*", "+@all", f"-{rule[1:]}")
        client = RedisClient.from_app(app)
        assert missing(client, ["celery"]).commands == [rule[1:].upper().replace("|", " ")]
        client.close()
    every.execute_command("ACL", "DELUSER", "each")
    app.close()
    assert len(RULES) == len(NEEDED) + len(TRANSACTIONS) + 1


def test_the_doctor_says_what_an_administrator_has_to_type(make_user: MakeUser) -> None:
    url = make_user("~svc:*", "&*", "+@all", "-@dangerous", "-lrem", "-hlen")
    app = app_of(url)
    found = [finding for finding in examine(DynPrio(app), 0.1) if finding.severity == "error"]
    user = url.partition("//")[2].partition(":")[0]
    assert [finding.check for finding in found] == ["rights"]
    assert f"user {user} may not run LREM, HLEN: " in found[0].text
    assert f"`ACL SETUSER {user} +lrem +hlen` in redis-cli" in found[0].text
    app.close()


def test_operators_and_reprioritizers_need_no_more(server: Database, make_user: MakeUser) -> None:
    app = app_of(make_user("~svc:*", "&*", *RULES))
    dynprio = cast("DynPrio", DynPrio.of(app))
    ids = [app.send_task("a.task", (n,), dynprio={"weight": n % 10 / 4, "key": "ada"}).id for n in range(40)]
    client = RedisClient.from_app(app)
    leader = reprioritizers(RedisBroker(client), dynprio.settings, "one")[0]
    assert leader.tick().outcomes
    leader.backlog.spill(10, 0.0)
    with dynprio.operations("ada") as operations:
        assert [result.answer for result in operations.hold(ids[:3])] == [Answer.DONE] * 3
        assert [result.answer for result in operations.release(ids[:1])] == [Answer.DONE]
        assert [result.answer for result in operations.bump(ids[3:5])] == [Answer.DONE] * 2
        assert [result.answer for result in operations.reprioritize(ids[5:6], {"level": 3})] == [Answer.DONE]
        assert [result.answer for result in operations.cancel(ids[6:7])] == [Answer.DONE]
        assert operations.explain(ids[8]).turn.task.id == ids[8]
        assert operations.pending(Filter(key="ada"), limit=50).matching == 39
        assert operations.stats().queues[0].held == 2
        operations.pause("tea")
        operations.resume()
        assert operations.drain(held=True)[0].returned >= 2
        assert len(operations.log()) >= 10
    leader.close()
    assert server.client.hlen("svc:dynprio:celery:overflow") == leader.backlog.count()[OVERFLOW] == 0
    client.close()
    app.control.purge()
    app.close()


TASKS = """
    from celery_dynprio import DynPrio, dynprio_task

    dynprio = DynPrio(app)

    @dynprio_task(app=app, key="key", bind=True)
    def add(self, n, key="ada"):
        if n == 13 and not self.request.retries:
            raise self.retry(countdown=0.01)
        return n

    @app.task
    def total(numbers):
        return sum(numbers)
"""


def test_workers_need_no_more(
    make_user: MakeUser, make_project: MakeProject, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"global_keyprefix": "svc:"}
    project = make_project(
        make_user("~svc:*", "&*", *RULES),
        TASKS,
        conf={
            "broker_transport_options": options,
            "result_backend_transport_options": options,
            "dynprio_lease_ttl": 2.0,
        },
    )
    worker = start_worker(project, pool="solo", args=["-E"])
    module = project.load()
    assert [module.add.delay(n).get(timeout=60) for n in (1, 13)] == [1, 13]
    assert chord([module.add.s(1), module.add.s(2)], module.total.s()).delay().get(timeout=60) == 3
    worker.wait_for_answer(project.app)
    worker.kill("SIGTERM")
    assert "permission" not in worker.logs()
    assert "can't run this command" not in worker.logs()
    assert "permission" not in caplog.text
