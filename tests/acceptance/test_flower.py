"""Operators at the page Priorities: a real Chromium, a real Flower, broker, workers and reprioritizer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Final

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from tornado.web import create_signed_value

from celery_dynprio.brokers.redis.attainment import RedisAttainment
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.models import OVERFLOW, Move, Run, Start
from tests.browser import DESKTOP, PHONE, Browser
from tests.conftest import StartCelery, StartWorker
from tests.flower import FlowerServer
from tests.nodes import Project, write_project
from tests.processes import wait_until
from tests.servers import Database, Kind, RedisServer

#: A task of "gated" runs until the test opens its gate; "ran" tells who ran, in their order.
BODY: Final = """
    from celery_dynprio import Age, DynPrio, Objective, Weight, dynprio_task

    promise = Objective(
        "checkouts <b>soon</b>", "shop.checkout", within=60, target=0.9, on_breach="degrade", expendable="shop.report"
    )
    app.conf.update(
        dynprio_objectives=[promise],
        dynprio_policy=3 * Weight() + 1 * Age(saturation=3600), dynprio_embedded=False, dynprio_interval=0.1,
        dynprio_events=True, task_acks_late=True, worker_send_task_events=True, task_track_started=True,
    )
    dynprio = DynPrio(app)

    @dynprio_task(app=app, name="shop.gated")
    def gated():
        while app.backend.client.blpop("gate", 60) is None:
            pass

    @dynprio_task(app=app, name="shop.report", key="tenant")
    def report(tenant, page):
        app.backend.client.rpush("ran", page)

    @dynprio_task(app=app, name="shop.checkout", weight=9, deadline=3600, key="tenant")
    def checkout(tenant, order):
        report.delay(tenant, f"bill of {order}")
"""

#: What the page shows for a value that there is none of.
NOTHING: Final = "\N{EN DASH}"

ADA: Final = "ada:secret"
BOB: Final = "bob:hidden"

HOSTILE: Final = """<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'"`{{7*7}}"""


@pytest.fixture(scope="module")
def database(shared_server: Callable[[Kind], RedisServer], database_numbers: Iterator[int]) -> Iterator[Database]:
    server, number = shared_server("valkey"), next(database_numbers)
    made = Database(server, number, server.client(number))
    yield made
    made.client.flushdb()
    made.client.close()


@pytest.fixture(scope="module")
def project(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = write_project(tmp_path_factory.mktemp("shop"), database.url, BODY)
    yield made
    made.forget()


@pytest.fixture(scope="module")
def flower(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerServer]:
    """One in which ada may act, and bob may look."""
    made = FlowerServer(
        project, tmp_path_factory.mktemp("flower"), f"--basic_auth={ADA},{BOB}", arguments="writers=['ada']"
    )
    made.start()
    yield made
    made.teardown()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_waits(database: Database) -> None:
    database.client.flushdb()


@pytest.fixture
def page(window: Browser, flower: FlowerServer) -> Page:
    window.resize(DESKTOP)
    window.log_in(ADA)
    found = Page(window, flower.url)
    found.load()
    return found


class Page:
    """The page as an operator sees it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url

    def load(self, path: str = "/priorities") -> None:
        self.browser.driver.get("about:blank")  # so that only another hash is a new page too
        self.browser.driver.get(self.url + path)
        self.browser.problems()
        self.refresh()

    def refresh(self) -> None:
        """Let it ask at once, and wait until it shows the answer."""
        self.browser.script("document.getElementById('dp-range').textContent = '';")
        self.browser.script("document.dispatchEvent(new Event('visibilitychange'))")
        self.browser.until(lambda: self.browser.text("#dp-range").strip("—"), "the answer")

    def rows(self) -> list[dict[str, str]]:
        """What the table shows, by column."""
        script = """return [...document.querySelectorAll("#dp-rows tr")].map((line) => ({id: line.dataset.id,
            ...Object.fromEntries([...line.querySelectorAll("td[data-title]")].map(
                (cell) => [cell.dataset.title, (cell.querySelector(".dp-number, .dp-name") ?? cell).textContent]))}))"""
        found: list[dict[str, str]] = self.browser.script(script)
        return found

    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows()]

    def shows(self, *ids: str) -> None:
        """Wait until these tasks are in the table, in this order, and no others."""
        self.browser.until(lambda: self.ids() == list(ids), f"shown are {ids}")

    def place(self, task_id: str) -> str:
        return next((row["Place"] for row in self.rows() if row["id"] == task_id), "")

    def press(self, button: str, task_id: str) -> None:
        self.browser.click(f'tr[data-id="{task_id}"] [data-op="{button}"]')

    def asks(self, dialog: str) -> None:
        """Wait until a dialog is open: it takes the focus once it is ready."""
        self.browser.until(
            lambda: self.browser.script("return document.activeElement.id") == f"dp-{dialog}", f"the dialog {dialog}"
        )

    def says(self, text: str) -> None:
        self.browser.until(lambda: text in self.browser.text("#dp-message"), f"it says {text!r}")


def _reads(page: Page, selector: str, text: str) -> bool:
    return page.browser.text(selector) == text


def listed(project: Project, limit: int = 25) -> list[dict[str, Any]]:
    """What ``celery -A proj dynprio list --json`` tells."""
    line = [sys.executable, "-m", "celery", "-A", project.name, "dynprio", "list", "--json", "--limit", str(limit)]
    done = subprocess.run(line, cwd=project.directory, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["tasks"]
    return found


def test_it_shows_what_the_list_shows(project: Project, page: Page) -> None:
    module = project.load()
    reports = [module.report.delay("ada", number).id for number in range(27)]
    module.checkout.delay("bob", 1)
    module.report.apply_async(("eve", 1), priority=4)
    module.dynprio.hold(reports[3])

    def shown() -> list[tuple[str, ...]]:
        return [(row["id"], row["#"], row["Place"].split(",")[0], row["Key"], row["Task"]) for row in page.rows()]

    page.refresh()
    tasks = listed(project, 0)
    expected = [
        (task["id"], str(task["position"] or NOTHING), task["place"], task["key"] or NOTHING, task["task"])
        for task in tasks
    ]
    assert len(tasks) == 29
    page.browser.until(lambda: shown() == expected[:25], "the first page")
    assert [abs(float(row["Score"]) - task["score"]) < 0.01 for row, task in zip(page.rows(), tasks, strict=False)] == [
        True
    ] * 25
    assert page.browser.text("#dp-range") == "1 to 25 of 29"
    page.browser.click("#dp-next")
    page.browser.until(lambda: shown() == expected[25:], "the last page, with what is held at its end")
    assert shown()[-1][:3] == (reports[3], NOTHING, "held")
    chart = """return Object.fromEntries([...document.querySelectorAll("#dp-levels tbody tr")].map((line) =>
        [line.querySelector("th").textContent, Number(line.querySelector(".dp-number").textContent)]))"""
    places = [*(f"P{level}" for level in range(10)), "parked", "held"]
    depths = {place: sum(task["place"] == place for task in tasks) for place in places}
    page.browser.until(lambda: page.browser.script(chart) == depths, "the chart")
    assert page.browser.text("#dp-parked") == "0 / 1"
    with module.dynprio.operations() as operations:
        operations.cancel([*reports[:3], *reports[4:]])
    page.browser.until(lambda: page.browser.text("#dp-range") == "1 to 3 of 3", "the last page that there is now")
    assert page.browser.problems() == []


def test_tasks_are_searched_sorted_and_chosen_by_place(project: Project, page: Page) -> None:
    module = project.load()
    checkout, report = module.checkout.delay("bob", 1).id, module.report.delay("ada", 1).id
    other = module.report.delay("zoe", 1).id
    module.dynprio.hold(other)
    page.refresh()
    page.shows(checkout, report, other)
    for wanted, found in (("CHECKOUT", checkout), ("zoe", other), (report[4:20], report)):
        page.browser.one("#dp-search").clear()
        page.browser.script("document.getElementById('dp-found').textContent = ''")
        page.browser.one("#dp-search").send_keys(wanted)
        page.shows(found)
        assert page.browser.text("#dp-found") == "1 to 1 of 1"
    page.browser.one("#dp-search").clear()
    page.browser.one("#dp-search").send_keys(Keys.SPACE + Keys.BACKSPACE)
    page.shows(checkout, report, other)
    page.browser.click('th[data-sort="key"] button')
    page.shows(report, checkout, other)
    page.browser.click('th[data-sort="key"] button')
    page.shows(other, checkout, report)
    assert page.browser.one('th[data-sort="key"]').get_attribute("aria-sort") == "descending"
    page.browser.click('th[data-sort="position"] button')
    page.shows(checkout, report, other)
    Select(page.browser.one("#dp-place")).select_by_value("held")
    page.shows(other)


def test_each_button_does_its_work(project: Project, page: Page) -> None:
    module = project.load()
    dynprio = module.dynprio
    checkout, *reports = [module.checkout.delay("bob", 1).id, *(module.report.delay("ada", n).id for n in range(3))]
    page.refresh()
    page.shows(checkout, *reports)

    page.press("bump", reports[2])
    page.says(f"bump shop.report {reports[2]}: done")
    page.shows(reports[2], checkout, reports[0], reports[1])
    page.press("hold", reports[0])
    page.browser.until(lambda: page.place(reports[0]) == "held", "it is held")
    page.shows(reports[2], checkout, reports[1], reports[0])
    page.press("release", reports[0])
    page.browser.until(lambda: page.place(reports[0]) == "P9", "it is released")

    page.press("set", reports[1])
    page.asks("set")
    assert not page.browser.one("#dp-set-nothing").is_displayed()
    page.browser.click("#dp-set-submit")
    page.browser.until(lambda: page.browser.one("#dp-set-nothing").is_displayed(), "nothing is changed yet")
    page.browser.one("#dp-weight").clear()
    page.browser.one("#dp-weight").send_keys("7.5")
    page.browser.one("#dp-deadline").send_keys("90")
    Select(page.browser.one("#dp-level")).select_by_value("6")
    page.browser.one("#dp-set-why").send_keys("they called")
    page.browser.click("#dp-set-submit")
    page.says(f"reprioritize shop.report {reports[1]}: done")
    page.browser.until(lambda: page.place(reports[1]) == "P6, pinned", "it is pinned")
    found = dynprio.explain(reports[1])
    assert (found.turn.task.weight, found.turn.task.pinned) == (7.5, 6)
    # 90 s from when the button was pressed.
    assert 60 < (found.turn.task.deadline or 0) - found.turn.task.published < 390
    assert [(each.by, each.why) for each in found.operations] == [("ada (Flower)", "they called")]

    page.press("cancel", reports[0])
    page.asks("cancel")
    page.browser.click("#dp-cancel-submit")
    page.says(f"cancel shop.report {reports[0]}: done")
    page.shows(reports[2], checkout, reports[1])
    assert module.report.AsyncResult(reports[0]).state == "REVOKED"

    for text, paused in (("Resume moves", True), ("Pause moves", False)):
        page.browser.click("#dp-pause")
        page.browser.until(partial(_reads, page, "#dp-pause", text), text)
        assert page.browser.one("#dp-paused").is_displayed() is paused
        with dynprio.operations() as operations:
            assert operations.paused() is paused

    entries = """return [...document.querySelectorAll('#dp-feed [data-kind="operator"]')].map(
        (each) => each.textContent)"""
    page.browser.until(lambda: sum("ada (Flower)" in each for each in page.browser.script(entries)) == 7, "seven deeds")
    assert page.browser.problems() == []


def test_a_double_click_presses_once_and_a_link_within_flower_is_no_task(project: Project, page: Page) -> None:
    module = project.load()
    first, second = (module.report.delay("ada", number).id for number in range(2))
    page.refresh()
    page.shows(first, second)
    page.browser.double_click(f'tr[data-id="{first}"] [data-op="hold"]')
    page.shows(second, first)
    assert (page.place(first), page.place(second)) == ("held", "P9")
    with module.dynprio.operations() as operations:
        assert [(entry.op, entry.id) for entry in operations.log()] == [("hold", first)]
    page.load("/priorities#main-content")
    page.shows(second, first)
    assert not page.browser.one("#dp-about").is_displayed()


def test_what_workers_run_and_reprioritizers_move_is_seen(
    project: Project, database: Database, page: Page, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    module = project.load()
    gated = module.gated.apply_async(priority=0)
    start_worker(project, concurrency=1)
    wait_until(lambda: gated.state == "STARTED", message="the slot is taken")
    reports = [module.report.delay("ada", number).id for number in range(4)]
    checkout = module.checkout.delay("bob", 1)
    module.dynprio.reprioritize(reports[3], weight=10)
    start_celery(project, "dynprio", "run", ready_line="dynprio ready")
    Select(page.browser.one("#dp-kind")).select_by_value("move")
    page.browser.until(lambda: "shop.report: P9 to P" in page.browser.text("#dp-feed"), "the move is told")
    page.press("bump", reports[2])
    page.says("done")
    database.client.rpush("gate", "open")
    wait_until(lambda: database.client.llen("ran") == 5, message="all have run")
    ran: Any = database.client.lrange("ran", 0, -1)
    assert ran[0] == b"2"
    page.shows()

    spans = RedisSpans(RedisClient.from_app(module.app))
    wait_until(lambda: (found := spans.read(checkout.id)) and len(found.spans) == 2, message="the worker tells")
    spans.close()

    def in_flower(task_id: str) -> bool:
        page.browser.driver.get(f"{page.url}/task/{task_id}")
        return "SUCCESS" in page.browser.text(".task-details-card")

    page.browser.until(lambda: in_flower(checkout.id), "Flower knows of its end")
    page.browser.click("#dynprio-task-link")
    page.browser.until(lambda: page.browser.all("#dp-about-body .dp-tree"), "the trace")
    told = page.browser.text("#dp-about-body")
    assert "Not pending: already finished." in told
    (tree,) = page.browser.all("#dp-about-body .dp-tree > li")
    assert "shop.checkout" in tree.text.splitlines()[0]
    assert page.browser.all("#dp-about-body .dp-tree > li > ul > li"), "the report that the checkout published"
    page.browser.until(lambda: in_flower(reports[3]), "events of moves change no state")
    assert page.browser.text(".task-name-value").strip() == "shop.report"
    page.browser.driver.get(f"{page.url}/workers?json=1")
    assert "worker@" in page.browser.text("body")
    assert "dynprio@" not in page.browser.text("body")


@pytest.mark.parametrize("way", ["a pointer", "the keyboard"])
def test_factors_are_told_to(way: str, project: Project, page: Page) -> None:
    task_id = project.load().checkout.delay("bob", 1).id
    page.refresh()
    page.shows(task_id)
    assert not page.browser.one("#dp-tip").is_displayed()
    if way == "a pointer":
        page.browser.hover(".dp-score-bar")
    else:
        page.browser.one('th[data-sort="task"] button').send_keys(Keys.TAB)
    page.browser.until(lambda: page.browser.one("#dp-tip").is_displayed(), "the factors")
    assert page.browser.one(".dp-score-bar").get_attribute("aria-describedby") == "dp-tip"
    lines = page.browser.one("#dp-tip").text.splitlines()
    assert [line.split()[0] for line in lines] == ["Factor", "Weight", "Age", "Score"]
    assert lines[1].split()[1:] == ["0.900", "3", "0.675"]
    page.refresh()
    assert page.browser.one("#dp-tip").is_displayed(), "as long as it is looked at"
    page.browser.press(Keys.ESCAPE)
    page.browser.until(lambda: not page.browser.one("#dp-tip").is_displayed(), "away")


def test_objectives_and_what_is_held_back_for_them(project: Project, page: Page) -> None:
    module = project.load()
    report = module.report.delay("ada", 1).id
    kept = RedisAttainment(RedisClient.from_app(module.app), [module.promise])
    kept.add([*[Start("shop.checkout", 1.0)] * 3, Start("shop.checkout", 61.0)])

    def shown() -> list[str]:
        cells = "[...document.querySelectorAll('#dp-objectives tr > *')].map((cell) => cell.textContent)"
        found: list[str] = page.browser.script(f"return {cells}")
        return found

    page.refresh()
    figures = ["checkouts <b>soon</b>", "75.0 %", "90.0 % within 60.0 s", "4", "0"]
    page.browser.until(lambda: shown() == [*figures, "met"], "it is met")
    page.browser.resize(PHONE)
    script = "const box = document.getElementById('dp-objectives').closest('.table-responsive');"
    assert page.browser.script(f"{script} return box.scrollWidth <= box.clientWidth")
    page.browser.resize(DESKTOP)
    kept.turn(kept.read()[0])
    page.browser.until(lambda: shown()[:5] == figures and shown()[5].startswith("breached for "), "it is breached")
    assert shown()[5].endswith(" s, holding back shop.report")

    backlog = RedisBacklog(RedisClient.from_app(module.app), "celery")
    (found,) = backlog.find([report], 0.0)[report]
    backlog.apply([Move(found.task, found.place, OVERFLOW, 0.1, "objective")])
    page.load(f"/priorities#{report}")
    page.browser.until(
        lambda: "by objective checkouts <b>soon</b>" in page.browser.text(".dp-facts"), "what it waits for"
    )


def test_hostile_tasks_are_inert(project: Project, page: Page) -> None:
    module = project.load()
    options = {"queue": "celery", "dynprio": {"key": HOSTILE}, "task_id": f'{HOSTILE}" onfocus="window.hacked=1'}
    task_id = module.app.send_task(HOSTILE, [HOSTILE], {"a": HOSTILE}, **options).id
    module.dynprio.hold(task_id, why=HOSTILE)
    page.refresh()
    page.browser.until(lambda: [row["Task"] for row in page.rows()] == [HOSTILE], "the name as it is")
    assert [(row["id"], row["Key"]) for row in page.rows()] == [(task_id, HOSTILE)]
    page.browser.hover(".dp-score-bar")
    page.browser.until(lambda: page.browser.one("#dp-tip").is_displayed(), "the factors")
    page.browser.until(lambda: HOSTILE in page.browser.text("#dp-feed"), "the reason as it is")
    page.browser.click('[data-op="set"]')
    page.browser.until(lambda: page.browser.one("#dp-weight").is_displayed(), "the dialog")
    assert HOSTILE in page.browser.text("#dp-set-task")
    page.load()
    page.browser.until(page.rows, "the row")
    page.browser.click('[data-op="about"]')
    page.browser.until(lambda: page.browser.all("#dp-about-body .dp-factors"), "the explanation")
    assert HOSTILE in page.browser.text("#dp-about-body")
    page.load()
    page.browser.until(page.rows, "the row")
    page.browser.click('[data-op="release"]')
    page.says(HOSTILE)
    assert page.browser.script("return window.hacked ?? null") is None
    assert page.browser.all("#dynprio img") == []
    assert page.browser.problems() == []


def test_who_may_only_look_sees_no_buttons(project: Project, page: Page) -> None:
    task_id = project.load().report.delay("ada", 1).id
    page.browser.log_in(BOB)
    page.load()
    page.shows(task_id)
    assert page.browser.one("#dp-read-only").is_displayed()
    assert page.browser.all("#dp-pause, .dp-buttons, #dp-set") == []
    send = """const done = arguments[arguments.length - 1];
        fetch(document.getElementById("dynprio").dataset.root + "/do", {method: "POST",
            headers: {"X-XSRFToken": document.getElementById("dynprio").dataset.token},
            body: JSON.stringify({op: "hold", ids: [arguments[0]]})}).then((answer) => done(answer.status))"""
    assert page.browser.driver.execute_async_script(send, task_id) == 403
    assert page.place(task_id) == "P9"


def test_a_password_may_be_in_the_address(project: Project, page: Page, flower: FlowerServer) -> None:
    task_id = project.load().report.delay("ada", 1).id
    page.browser.log_in(None)
    page.browser.driver.get(f"http://{ADA}@127.0.0.1:{flower.port}/priorities")
    page.shows(task_id)
    page.press("hold", task_id)
    page.browser.until(lambda: page.place(task_id) == "held", "it is held")


def test_another_sites_page_can_neither_act_nor_read(
    project: Project, page: Page, flower: FlowerServer, window: Browser
) -> None:
    task_id = project.load().report.delay("ada", 1).id
    page.load()
    page.shows(task_id)
    window.driver.get("data:text/html,<h1>evil</h1>")
    send = """const done = arguments[arguments.length - 1];
        fetch(arguments[0], {method: arguments[1], mode: arguments[2], credentials: "include",
            body: arguments[3]}).then((answer) => answer.text()).then((text) => done(text), () => done("refused"))"""
    body = json.dumps({"op": "hold", "ids": [task_id]})
    run = window.driver.execute_async_script
    assert run(send, f"{flower.url}/priorities/do", "POST", "cors", body) == "refused"
    assert run(send, f"{flower.url}/priorities/do", "POST", "no-cors", body) in {"", "refused"}
    assert run(send, f"{flower.url}/priorities/data", "GET", "cors", None) == "refused"
    page.load()
    assert page.place(task_id) == "P9"


def test_all_can_be_done_with_the_keyboard_and_has_a_name(project: Project, page: Page) -> None:
    task_id = project.load().report.delay("ada", 1).id
    page.refresh()
    page.shows(task_id)
    nodes = page.browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "searchbox", "combobox", "link", "group", "spinbutton", "checkbox"}
    unnamed = [
        node
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles - {"group"} and not node["name"]["value"].strip()
    ]
    assert unnamed == []
    page.browser.one(".dp-score-bar").send_keys(Keys.TAB)
    page.browser.press(Keys.ENTER)  # the task's name
    page.browser.until(lambda: page.browser.all("#dp-about-body .dp-factors"), "the explanation")
    page.browser.until(lambda: page.browser.script("return document.activeElement.id") == "dp-about", "the focus")
    page.browser.press(Keys.ESCAPE)

    def focus() -> list[str | None]:
        script = "const at = document.activeElement; return [at.closest('tr')?.dataset.id, at.dataset.op, at.id]"
        found: list[str | None] = page.browser.script(script)
        return found

    page.browser.until(lambda: not page.browser.one("#dp-about").is_displayed(), "away")
    page.browser.until(lambda: focus() == [task_id, "about", ""], "what opened it has the focus again")
    page.browser.one(f'tr[data-id="{task_id}"] [data-op="set"]').send_keys(Keys.ENTER)
    page.browser.until(lambda: page.browser.one("#dp-weight").is_displayed(), "the dialog")
    page.browser.until(lambda: focus()[2] == "dp-set", "the focus")
    page.browser.press(Keys.ESCAPE)
    page.browser.until(lambda: focus() == [task_id, "set", ""], "what opened the dialog has the focus again")
    page.browser.one(f'tr[data-id="{task_id}"] [data-op="about"]').send_keys(Keys.TAB, Keys.TAB)
    page.browser.press(Keys.SPACE)
    page.browser.until(lambda: page.place(task_id) == "held", "it is held")
    page.browser.until(lambda: focus() == [task_id, "release", ""], "Release, which took the place of Hold")
    other = project.load().checkout.delay("ada", 2).id
    page.refresh()
    page.shows(other, task_id)
    page.browser.press(Keys.SPACE)
    page.browser.until(lambda: focus() == [task_id, "hold", ""], "Hold, which is there again")
    page.browser.one(f'tr[data-id="{task_id}"] [data-op="hold"]').send_keys(Keys.SHIFT, Keys.TAB)
    page.browser.press(Keys.SPACE)
    page.browser.until(lambda: page.ids() == [task_id, other], "it is bumped, so that its row moves")
    assert focus() == [task_id, "bump", ""]
    project.load().dynprio.cancel(task_id)
    page.browser.until(lambda: focus() == [other, "about", ""], "the task that took its row")
    project.load().dynprio.cancel(other)
    page.browser.until(lambda: focus()[2] == "dp-search", "what leads to tasks, as none is shown")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["a desktop", "a phone"])
def test_it_is_readable_in_both_themes_on(theme: str, size: tuple[int, int], project: Project, page: Page) -> None:
    module = project.load()
    name = "a.very.long.name." * 8
    task_id = module.app.send_task(name, queue="celery", dynprio={"key": "k" * 150}).id
    page.browser.resize(size)
    page.refresh()
    page.shows(task_id)
    page.browser.script("document.querySelector(`[data-bs-theme-value=${arguments[0]}]`).click()", theme)
    assert page.browser.one("html").get_attribute("data-bs-theme") == theme
    assert page.browser.script("return document.documentElement.scrollWidth <= window.innerWidth")
    script = """const style = (selector) => getComputedStyle(document.querySelector(selector));
        return [style(".dp-card").backgroundColor, style(".dp-card-title").color, style("[data-op=hold]").color]"""
    surface, *texts = page.browser.script(script)
    assert [contrast(surface, text) >= 4.5 for text in texts] == [True, True]  # WCAG 2, level AA
    if size == PHONE:
        widths = page.browser.script(
            "return [...document.querySelectorAll('#dp-rows td')].map((cell) => cell.getBoundingClientRect().right)"
        )
        assert max(widths) <= PHONE[0]
    page.browser.script("document.querySelector('[data-bs-theme-value=light]').click()")


def contrast(one: str, other: str) -> float:
    """The contrast of two CSS colours, ``rgb(r, g, b)``, as WCAG 2 has it."""

    def luminance(colour: str) -> float:
        channels = [int(each) / 255 for each in colour.strip("rgba()").split(",")[:3]]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_nothing_comes_from_another_host(page: Page, flower: FlowerServer) -> None:
    page.load()
    names = page.browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(names) > 10
    assert [name for name in names if not name.startswith(flower.url)] == []


def test_a_page_that_flower_does_not_answer_any_more_says_so(
    project: Project, page: Page, flower: FlowerServer
) -> None:
    module = project.load()
    first, second = (module.report.delay("ada", number).id for number in range(2))
    page.refresh()
    page.shows(first, second)
    flower.signal(SIGSTOP)
    try:
        page.press("hold", second)
        page.press("bump", first)
        page.browser.until(lambda: page.browser.text("#dp-status") == "No answer for 6 s", "it says that it hangs")
        assert page.browser.all(".status-dot-error")
        assert page.browser.text("#dp-stale") == "No answer for 6 s"
        assert [each.text for each in page.browser.all("#dp-message .alert-info")] == [
            f"bump shop.report {first} …",
            f"hold shop.report {second} …",
        ]
    finally:
        flower.signal(SIGCONT)
    page.says(f"bump shop.report {first}: done")
    page.browser.until(lambda: page.place(second) == "held", "both are done")
    page.browser.until(lambda: page.browser.all(".status-dot-live"), "it goes on")
    flower.kill("SIGKILL")
    page.browser.until(lambda: page.browser.text("#dp-status") == "Flower cannot be reached", "it says that it is away")
    page.press("bump", first)
    page.says(f"bump shop.report {first}: Flower cannot be reached; it may have been done nevertheless")
    flower.start()
    page.browser.until(lambda: page.browser.all(".status-dot-live"), "it goes on")


def test_a_login_that_expired_is_told(project: Project, window: Browser, tmp_path: Path) -> None:
    """With OAuth one logs in on another host, where a page may send nobody."""
    secret = "s" * 64
    oauth = {"auth_provider": "flower.views.auth.GithubLoginHandler", "auth": "ada@example.com"}
    options = {**oauth, "oauth2_key": "key", "oauth2_secret": "secret", "oauth2_redirect_uri": "http://127.0.0.1/login"}
    own = FlowerServer(
        project, tmp_path, f"--cookie_secret={secret}", *(f"--{name}={value}" for name, value in options.items())
    )
    own.start()
    try:
        window.log_in(None)
        window.driver.get(f"{own.url}/healthcheck")
        window.driver.add_cookie(
            {"name": "user", "value": create_signed_value(secret, "user", "ada@example.com").decode()}
        )
        page = Page(window, own.url)
        page.load()
        window.driver.delete_cookie("user")
        window.until(lambda: window.text("#dp-status") == "You are logged out. Reload the page.", "it says so")
    finally:
        own.teardown()


def _fill(project: Project, start_worker: StartWorker) -> Any:
    """Forty tasks wait, one runs until the gate opens, and it is known how long tasks take."""
    module = project.load()
    usage = RedisUsage(RedisClient.from_app(module.app))
    usage.add(
        [Run(f"shop.{name}", "", seconds) for name, seconds in (("report", 2.0), ("checkout", 1.0), ("gated", 5.0))]
    )
    gated = module.gated.apply_async(priority=0)
    start_worker(project, concurrency=1)
    wait_until(lambda: gated.state == "STARTED", message="the slot is taken")
    for number in range(30):
        module.report.delay(f"tenant {number % 3}", number)
    for number in range(10):
        module.checkout.delay("bob", number)
    return module


def _try(page: Page, **weights: float) -> None:
    """Open the view, give factors these weights, and play it."""
    if not page.browser.one("#dp-try").get_attribute("open"):
        page.browser.click("#dp-try summary")
    page.browser.until(lambda: page.browser.one("#dp-try-submit").is_enabled(), "the policy was read")
    for name, weight in weights.items():
        script = """return [...document.querySelectorAll(".dp-term")].find(
            (each) => each.firstChild.textContent === arguments[0]).dataset.index"""
        field = page.browser.one(f"#dp-term-{page.browser.script(script, name)}")
        field.clear()
        field.send_keys(f"{weight:g}")
    page.browser.script("document.getElementById('dp-try-says').textContent = ''")

    def played() -> bool:
        """Flower asks workers once in a while: until it has heard of this one, it says that none answers."""
        says = page.browser.text("#dp-try-says")
        if not says or "no worker" in says:
            page.browser.click("#dp-try-submit")
        return says.startswith("Played")

    page.browser.until(played, "it was played")


def _order(page: Page, lane: str) -> list[str]:
    """The names of those that start next in a lane."""
    script = """return [...document.querySelectorAll(`[data-lane=${arguments[0]}] .dp-next li`)].map(
        (each) => each.textContent.split(",")[0])"""
    found: list[str] = page.browser.script(script, lane)
    return found


def test_another_policy_is_played_forward(
    project: Project, database: Database, page: Page, start_worker: StartWorker
) -> None:
    _fill(project, start_worker)
    page.browser.log_in(BOB)  # who may look
    page.load()
    before = listed(project, 0)
    _try(page, Weight=0, ShortestFirst=5)
    page.browser.problems()  # the browser logs each answer that no worker was heard of yet
    assert "Played 40 tasks on 1 slot," in page.browser.text("#dp-try-says")
    assert (_order(page, "now"), _order(page, "then")) == (["shop.checkout"] * 5, ["shop.checkout"] * 5)
    page.browser.click("#dp-try-play")
    page.browser.until(
        lambda: int(page.browser.script("return document.getElementById('dp-try-slider').value")) > 50, "it goes on"
    )
    page.browser.click("#dp-try-play")
    assert page.browser.text("#dp-try-play") == "Play"
    page.browser.script("document.getElementById('dp-try-slider').focus()")
    page.browser.press(Keys.END)
    page.browser.until(
        lambda: "40 of 40 have started" in page.browser.text("[data-lane=then] .dp-lane-title"), "scrubbed"
    )
    told = page.browser.one("#dp-try-slider").get_attribute("aria-valuetext")
    assert told is not None
    assert "40 of 40 have started with the policy in force" in told
    page.browser.press(Keys.HOME)
    page.browser.until(lambda: "0 of 40" in page.browser.text("[data-lane=now] .dp-lane-title"), "and back")
    _try(page, Weight=0, ShortestFirst=0, Age=0, FairShare=1)
    page.browser.until(lambda: "shop.report" in _order(page, "then"), "fair shares mix the keys")
    assert _order(page, "now") == ["shop.checkout"] * 5
    _try(page, FairShare=0, Age=1)
    assert [(task["id"], task["place"]) for task in listed(project, 0)] == [
        (task["id"], task["place"]) for task in before
    ]
    assert page.browser.problems() == []
    database.client.rpush("gate", "open")


def test_what_is_no_policy_is_refused(flower: FlowerServer, page: Page) -> None:
    page.browser.click("#dp-try summary")
    page.browser.until(lambda: page.browser.one("#dp-try-submit").is_enabled(), "the policy was read")
    page.browser.script(
        "document.querySelectorAll('.dp-term input').forEach((each) => { each.value = '0'; each.min = '0'; })"
    )
    page.browser.click("#dp-try-submit")
    page.browser.until(lambda: "terms = " in page.browser.text("#dp-try-says"), "nothing weighs anything")
    page.browser.problems()  # the browser logs that it was refused


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["a desktop", "a phone"])
def test_the_view_of_a_policy_fits(
    theme: str, size: tuple[int, int], project: Project, page: Page, start_worker: StartWorker
) -> None:
    client = _fill(project, start_worker).app.backend.client
    page.browser.resize(size)
    page.load()
    page.browser.script("document.documentElement.dataset.bsTheme = arguments[0]", theme)
    _try(page, ShortestFirst=2)
    assert page.browser.script("return document.documentElement.scrollWidth") <= size[0]
    client.rpush("gate", "open")
