"""The page of a replay in a real browser: on a desk and on a phone, light and dark."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from celery_dynprio import Age, Weight
from celery_dynprio.lab.contenders import Production, contenders
from celery_dynprio.lab.page import page
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet
from celery_dynprio.lab.study import study
from celery_dynprio.lab.workload import Workload
from tests.browser import DESKTOP, PHONE, Browser

BEYOND_THE_EDGE = """
return [...document.querySelectorAll("main *")]
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80));
"""
GROUND = "return getComputedStyle(document.body).backgroundColor"


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn, at, tasks = random.Random(4), 0.0, []
    for _ in range(200):
        at += drawn.expovariate(1.5)
        name = drawn.choice(["shop.tasks.checkout", "shop.tasks.a_report_with_a_name_that_is_far_too_long_for_a_phone"])
        tasks.append(Task(at, name, drawn.expovariate(0.5), f"key {drawn.randrange(9)}", drawn.choice([1.0, 9.0]), 5.0))
    policies = {"app": 1 * Weight() + 1 * Age(), "other": 1 * Age()}
    found = study(Workload(partial(iter, tasks)), contenders(policies, Production()), Fleet(2), tick=5, seeds=20)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(found))
    return path


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_beyond_the_edge(browser: Browser, file: Path, size: tuple[int, int]) -> None:
    browser.resize(size)
    browser.driver.get(file.as_uri())
    assert len(browser.all("table tbody tr")) > 5
    assert browser.script(BEYOND_THE_EDGE) == []
    assert browser.problems() == []


def test_it_is_as_light_or_dark_as_the_reader_wishes(browser: Browser, file: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        browser.driver.get(file.as_uri())
        grounds.append(browser.script(GROUND))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 25, 27)"]
