"""``make screenshots``: the page Priorities in Flower while the shop is under load, as the docs show it.

Light, dark, as wide as a phone, and one task; Chromium and its driver have to be installed.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from celery_dynprio import DynPrio, Filter
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.workers import Workers
from example_project.demo.processes import Processes, answers, free_port, running, server_program
from example_project.demo.run import SHOP, WORKERS, start_reprioritizer, start_worker

DOCS: Final = Path(__file__).parents[2] / "docs" / "flower"

#: CSS pixels.
WIDE: Final = (1280, 1040)
PHONE: Final = (390, 2200)

#: Pending tasks that make a good picture.
BUSY: Final = 150


def main() -> None:
    """Start the shop with Flower, put it under load, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        port, page = free_port(), free_port()
        env = {"SHOP_BROKER": f"redis://127.0.0.1:{port}/0", "FLOWER_UNAUTHENTICATED_API": "true"}
        os.environ.update(env)
        with running(Path(folder), env) as processes:
            server = processes.start("server", server_program(), "--port", str(port), "--save", "", "--dir", folder)
            server.wait_until(partial(answers, port))
            _start(processes, page)
            _take(processes, f"http://127.0.0.1:{page}")


def _start(processes: Processes, port: int) -> None:
    start_reprioritizer(processes)
    worker = start_worker(processes, SHOP, WORKERS[0])  # the other one is left out, so that more waits
    worker.wait_until(partial(worker.says, " ready."))
    conf = Path(__file__).parents[1] / "flowerconfig.py"
    flower = processes.celery("flower", SHOP, "flower", f"--port={port}", "--address=127.0.0.1", f"--conf={conf}")
    flower.wait_until(partial(_serves, f"http://127.0.0.1:{port}/healthcheck"))


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - of this machine
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP's OK
    except OSError:
        return False


def _take(processes: Processes, url: str) -> None:
    from example_project.celery import dynprio  # noqa: PLC0415 - it reads the broker from the environment

    driver = chromium()
    try:
        driver.get(f"{url}/priorities")
        processes.start("publisher", sys.executable, "-m", "example_project.demo.load", SHOP)
        _wait(driver, lambda: int(driver.find_element(By.ID, "dp-front").text.strip("—") or 0) >= BUSY)
        invoice = _steer(dynprio)
        _wait(driver, lambda: "they called" in driver.find_element(By.ID, "dp-feed").text)
        shoot(driver, DOCS / "light.png", WIDE)
        _theme(driver, "dark")
        shoot(driver, DOCS / "dark.png", WIDE)
        _theme(driver, "light")
        shoot(driver, DOCS / "phone.png", PHONE)
        driver.get(f"{url}/priorities#{invoice}")
        driver.refresh()
        _shoot_task(driver)
    finally:
        driver.quit()


def _steer(dynprio: DynPrio) -> str:
    """What an operator would do; return the id of a task that is held, and has a trace."""
    held = None
    with dynprio.operations("ada@ops1") as operations:
        while held is None:
            found = operations.pending(Filter(task="*.invoice"), workers=Workers()).turns
            results = operations.hold([turn.task.id for turn in found[-3:]], "the printer is broken")
            held = next((each.id for each in results if each.answer is Answer.DONE), None)
        reports = operations.pending(Filter(task="*.report"), workers=Workers()).turns
        operations.bump([turn.task.id for turn in reports[-40:-37]], "they called")
    return held


def _shoot_task(driver: webdriver.Chrome) -> None:
    _wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#dp-table [data-id]"))
    _wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#dp-about .dp-factors"))
    shoot(driver, DOCS / "task.png", (WIDE[0], 900))


def chromium() -> webdriver.Chrome:
    """A browser without a window."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))


def _wait(driver: webdriver.Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(driver, 60).until(lambda _: condition())


def _theme(driver: webdriver.Chrome, theme: str) -> None:
    """Choose as a user would, by Flower's own switch."""
    driver.execute_script(f"document.querySelector('[data-bs-theme-value={theme}]').click()")


def shoot(driver: webdriver.Chrome, path: Path, size: tuple[int, int]) -> None:
    """Take a picture of what a window of this size shows."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] == PHONE[0]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(1)  # transitions
    image = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(base64.b64decode(image))


if __name__ == "__main__":
    main()
