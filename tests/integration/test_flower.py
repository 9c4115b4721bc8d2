"""The page Priorities of a real Flower, over plain HTTP: who may what, what is refused, and what it says then."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import MakeProject, StartServer
from tests.flower import OPEN, FlowerServer, Web
from tests.nodes import Project, write_project
from tests.processes import Process, wait_until
from tests.servers import Kind, RedisServer

BODY: Final = """
    from celery_dynprio import Age, DynPrio, Weight, dynprio_task

    app.conf.update(dynprio_policy=3 * Weight() + 1 * Age(saturation=3600), dynprio_embedded=False)
    dynprio = DynPrio(app)

    @dynprio_task(app=app, name="shop.report", key="tenant")
    def report(tenant, page):
        return page
"""

PREFIX: Final = "/ops/flower"
ADA: Final = "ada:secret"
BOB: Final = "bob:hidden"


@pytest.fixture(scope="module")
def project(
    shared_server: Callable[[Kind], RedisServer],
    database_numbers: Iterator[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    url = shared_server("valkey").url(next(database_numbers))
    made = write_project(tmp_path_factory.mktemp("shop"), url, BODY)
    yield made
    made.forget()


@pytest.fixture(scope="module")
def flower(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerServer]:
    """One that asks for passwords, behind a prefix, where ada may act and bob may look."""
    options = [f"--basic_auth={ADA},{BOB}"]
    made = FlowerServer(
        project, tmp_path_factory.mktemp("flower"), *options, arguments="writers={'ada'}", prefix=PREFIX
    )
    made.start()
    yield made
    made.teardown()


@pytest.fixture
def ada(flower: FlowerServer) -> Web:
    return Web(flower.url, ADA).log_in()


@pytest.fixture
def task_id(project: Project) -> Iterator[str]:
    module = project.load()
    result = module.report.delay("ada", 1)
    yield result.id
    module.dynprio.cancel(result.id)


@pytest.fixture
def start_flower(tmp_path: Path, started: list[Process]) -> Callable[..., FlowerServer]:
    def start(project: Project, *options: str, **given: Any) -> FlowerServer:
        made = FlowerServer(project, tmp_path / "flower", *options, **given)
        started.append(made)
        made.start()
        return made

    return start


@pytest.mark.parametrize("path", ["/priorities", "/priorities/data", "/priorities/task/some-id"])
def test_nobody_looks_without_a_password(flower: FlowerServer, path: str) -> None:
    for user in (None, "ada:wrong", "eve:secret"):
        reply = Web(flower.url, user).get(path)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="flower"')


def test_the_page_is_a_tab_of_flower_under_its_prefix(flower: FlowerServer, ada: Web) -> None:
    page = ada.get("/priorities")
    assert f'data-root="{PREFIX}/priorities"' in page.text
    assert f'class="nav-link active" href="{PREFIX}/priorities"' in page.text
    assert f'class="nav-link" href="{PREFIX}/priorities"' in ada.get("/broker").text
    assert ada.get("/priorities/static/page.js").status == 200
    assert ada.get("/priorities/static/../install.py").status in {403, 404}


@pytest.mark.parametrize("path", ["/priorities", "/priorities/data", "/priorities/static/page.js"])
def test_nothing_but_our_own_files_may_run(ada: Web, path: str) -> None:
    headers = ada.get(path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; img-src")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_a_path_that_none_of_our_files_has_is_not_found(flower: FlowerServer, ada: Web) -> None:
    for path in ("nope.js", "%00", "a%00b.js", "%ff", ".", "..%2finstall.py", "page.js/x", "a" * 3000):
        assert ada.get(f"/priorities/static/{path}").status == 404, path
    assert ada.get("/priorities/do").status == 405
    assert "Traceback" not in flower.logs()


def test_many_lookups_of_unknown_tasks_keep_nobody_from_the_page(flower: FlowerServer, ada: Web) -> None:
    bob = Web(flower.url, BOB)  # who may only look
    with ThreadPoolExecutor(60) as threads:
        asked = [threads.submit(bob.get, f"/priorities/task/unknown-{number}") for number in range(60)]
        wait_until(lambda: sum(each.done() for each in asked) >= 30, message="most are refused at once")
        assert ada.data()["table"]["matching"] == 0
        replies = [each.result() for each in asked]
    refused = [reply for reply in replies if reply.status == 503]
    assert len(refused) >= 30
    assert refused[0].json == {"error": "Too many tasks are being looked up: try again in a few seconds."}
    found = [reply.json["state"] for reply in replies if reply.status == 200]
    assert found == ["not found"] * (60 - len(refused))


def test_who_may_not_act_is_shown_no_buttons_and_is_refused(flower: FlowerServer, task_id: str) -> None:
    bob = Web(flower.url, BOB).log_in()
    page = bob.get("/priorities").text
    assert ("You have read-only access" in page, 'id="dp-pause"' in page, 'data-may-act=""' in page) == (
        True,
        False,
        True,
    )
    assert [row["id"] for row in bob.data()["table"]["rows"]] == [task_id]
    reply = bob.act("hold", [task_id])
    assert (reply.status, reply.json) == (403, {"error": "You have read-only access"})
    assert [row["place"] for row in bob.data()["table"]["rows"]] != ["held"]


def test_who_may_act_acts_in_their_own_name(project: Project, ada: Web, task_id: str) -> None:
    reply = ada.act("hold", [task_id, "nobody"], why="the bank is down")
    assert reply.json["results"] == [
        {"id": task_id, "answer": "done", "detail": ""},
        {"id": "nobody", "answer": "not found", "detail": ""},
    ]
    found = ada.data()
    assert [(row["id"], row["place"]) for row in found["table"]["rows"]] == [(task_id, "held")]
    with project.load().dynprio.operations() as operations:
        entry = operations.log(task_id=task_id)[0]
    assert (entry.by, entry.op, entry.why) == ("ada (Flower)", "hold", "the bank is down")
    assert found["feed"][0]["by"] == "ada (Flower)"
    told = ada.get(f"/priorities/task/{task_id}").json
    assert (told["state"], told["explanation"]["place"]) == ("pending", "held")
    assert ada.get("/priorities/task/nobody").json["state"] == "not found"


@pytest.mark.parametrize(
    "forged",
    [
        {"without": "X-XSRFToken"},
        {"without": "Cookie"},
        {"X_XSRFToken": "2|00000000|00000000000000000000000000000000|1700000000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_post_that_the_page_did_not_send_is_refused(ada: Web, task_id: str, forged: dict[str, str]) -> None:
    reply = ada.post(json.dumps({"op": "hold", "ids": [task_id]}), **forged)
    assert reply.status == 403
    assert [row["place"] for row in ada.data()["table"]["rows"]] != ["held"]


def test_a_post_of_the_page_itself_is_not(flower: FlowerServer, ada: Web, task_id: str) -> None:
    body = json.dumps({"op": "bump", "ids": [task_id]})
    assert ada.post(body, Sec_Fetch_Site="same-origin", Origin="http://behind.a.proxy").status == 200
    assert ada.post(body, Origin=f"http://127.0.0.1:{flower.port}").status == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("not JSON", "say op, ids"),
        ("[]", "say op, ids"),
        ('{"ids": []}', "say op, ids"),
        ('{"op": 7}', "say op, ids"),
        ('{"op": "hold", "ids": [7]}', "say op, ids"),
        ('{"op": "hold", "ids": ["\\ud800"]}', "say op, ids"),
        ('{"op": "hold", "ids": "some-id"}', "a list of"),
        ('{"op": "hold", "ids": ["x"], "changes": []}', "an object"),
        ('{"op": "shutdown"}', "op = 'shutdown': use bump"),
        ('{"op": "100%"}', "op = '100%': use bump"),
        ('{"op": "reprioritize", "ids": ["x"]}', "give weight"),
        ('{"op": "reprioritize", "ids": ["x"], "changes": {"weight": 11}}', "weight = 11"),
        ('{"op": "reprioritize", "ids": ["x"], "changes": {"level": "P1"}}', "level = 'P1'"),
        ('{"op": "reprioritize", "ids": ["x"], "changes": {"deadline": NaN}}', "deadline = nan"),
        ("[" * 100_000, "say op, ids"),
    ],
)
def test_what_nobody_can_mean_is_told(ada: Web, body: str, said: str) -> None:
    reply = ada.post(body)
    assert reply.status == 400
    assert said in reply.json["error"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("start=-1", "start = -1"),
        ("start=x", "whole numbers"),
        ("count=0", "count = 0"),
        ("count=100000", "count = 100000"),
        ("sort=colour", "sort = 'colour'"),
        ("search=" + "x" * 201, "200 characters at most"),
    ],
)
def test_a_wrong_part_of_the_table_is_told(ada: Web, query: str, said: str) -> None:
    reply = ada.get(f"/priorities/data?{query}")
    assert reply.status == 400
    assert said in reply.json["error"]


def test_search_sort_and_pages(project: Project, ada: Web) -> None:
    module = project.load()
    names = ["shop.a<b>", "shop.B", "bank.c"]
    ids = [module.app.send_task(name, queue="celery").id for name in names for _ in range(2)]

    def shown(query: str, tasks: list[str]) -> None:
        """Wait for it: what is moved while it is read may be missing for once."""

        def found() -> bool:
            return [row["task"] for row in ada.data(query)["table"]["rows"]] == tasks

        wait_until(found, message=query)

    wait_until(lambda: ada.data("sort=task")["table"]["matching"] == len(ids), message="what was published is read")
    shown("search=shop.b", ["shop.B"] * 2)
    shown("search=%3Cb%3E", ["shop.a<b>"] * 2)
    shown(f"search={ids[5]}", ["bank.c"])
    shown("sort=task", ["bank.c"] * 2 + ["shop.B"] * 2 + ["shop.a<b>"] * 2)
    shown("sort=task&descending=1&start=1&count=2", ["shop.a<b>", "shop.B"])
    wait_until(lambda: ada.data("search=shop&count=1")["table"]["matching"] == 4)
    ada.act("hold", ids[:2])
    shown("place=held", ["shop.a<b>"] * 2)
    ada.act("cancel", ids)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--read_only"], {"env": OPEN}),
        ([], {"env": OPEN, "arguments": "read_only=True"}),
        ([], {"env": OPEN, "arguments": "writers=lambda user: user == 'ada'"}),
        ([], {}),
    ],
    ids=["Flower is read-only", "the page is read-only", "nobody in particular is no writer", "nobody logs in"],
)
def test_where_nobody_may_act(
    project: Project, start_flower: Callable[..., FlowerServer], options: list[str], given: dict[str, Any], task_id: str
) -> None:
    anybody = Web(start_flower(project, *options, **given).url).log_in()
    assert 'data-may-act=""' in anybody.get("/priorities").text
    assert anybody.act("hold", [task_id]).status == 403


def test_where_flower_is_open_the_token_is_asked_for_all_the_same(
    project: Project, start_flower: Callable[..., FlowerServer], task_id: str
) -> None:
    anybody = Web(start_flower(project, env=OPEN).url).log_in()
    body = json.dumps({"op": "bump", "ids": [task_id]})
    assert anybody.post(body, without="X-XSRFToken").status == 403
    assert anybody.post(body).status == 200
    assert "Access-Control-Allow-Origin" not in anybody.get("/priorities/data").headers


def test_a_broker_that_is_away_is_told_until_it_is_back(
    start_server: StartServer, make_project: MakeProject, start_flower: Callable[..., FlowerServer]
) -> None:
    server = start_server()
    web = Web(start_flower(make_project(server.url(), BODY), env=OPEN).url).log_in()
    web.data()
    server.stop()

    def is_told() -> bool:
        reply = web.get("/priorities/data")
        return reply.status == 503 and "does not answer" in reply.json["error"]

    wait_until(is_told, message="that it is away")
    reply = web.act("pause")
    assert (reply.status, "does not answer" in reply.json["error"]) == (503, True)
    assert web.get("/priorities").status == 200
    server.start()
    wait_until(lambda: web.get("/priorities/data").status == 200, message="that it is back")


def test_an_app_without_the_add_on_is_told_what_to_do(
    project: Project, make_project: MakeProject, start_flower: Callable[..., FlowerServer]
) -> None:
    web = Web(start_flower(make_project(project.app.conf.broker_url), env=OPEN).url)
    reply = web.get("/priorities/data")
    assert (reply.status, "add DynPrio(app)" in reply.json["error"]) == (503, True)


def test_a_flower_that_is_not_supported_says_so_at_its_start(project: Project, tmp_path: Path) -> None:
    config = tmp_path / "flowerconfig.py"
    config.write_text(
        "from celery_dynprio.monitoring.flower import install\n"
        "install.__globals__['version'] = lambda _: '3.0.0'\ninstall()\n"
    )
    command = [sys.executable, "-m", "celery", "-A", project.name, "flower", f"--conf={config}"]
    flower = Process("flower", command, project.directory)
    flower.start()
    assert flower.wait() != 0
    assert "the page Priorities does not support Flower 3.0.0" in flower.logs().splitlines()[-1]
