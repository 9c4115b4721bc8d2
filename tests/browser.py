"""A real Chromium, without a screen, without a network beyond this machine."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from typing import Any, Final

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.servers import missing

#: CSS pixels.
DESKTOP: Final = (1280, 1000)
PHONE: Final = (390, 844)

#: Seconds that anything on a page may take.
PATIENCE: Final = 60


def _program(name: str) -> str:
    """Its path; skips or fails the test if this machine has none."""
    return shutil.which(name) or missing(f"no {name} on this machine: apt-get install chromium chromium-driver")


class Browser:
    """One window. Names of hosts lead nowhere, so what a page asks of another one is an error in its log."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _program("chromium")
        size = ",".join(map(str, DESKTOP))
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--force-prefers-reduced-motion",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--window-size={size}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(_program("chromedriver")))

    def log_in(self, user: str | None) -> None:
        """From now on be this user (``name:password``), or nobody."""
        headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": headers})

    def resize(self, size: tuple[int, int]) -> None:
        """Be as large as this device."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The only one that there is, once it is there."""
        self.until(lambda: len(self.all(selector)) == 1, f"one {selector}")
        return self.all(selector)[0]

    def text(self, selector: str) -> str:
        """The text of the only one, shown or not; the page may replace it at any time."""
        return str(self.script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def click(self, selector: str) -> None:
        """Click it as soon as it can be clicked, wherever the page has it."""
        self.until(lambda: self.one(selector).is_displayed(), f"{selector} is shown")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        self.one(selector).click()

    def hover(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        ActionChains(self.driver).move_to_element(self.one(selector)).perform()

    def double_click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        ActionChains(self.driver).double_click(self.one(selector)).perform()

    def press(self, key: str) -> None:
        """Type it where the focus is."""
        ActionChains(self.driver).send_keys(key).perform()

    def script(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], object], message: str) -> None:
        """Wait until it is so."""
        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: condition(), message)

    def problems(self) -> list[str]:
        """What the console says since this was asked last: errors, refused scripts, files that are not there."""
        entries: list[dict[str, Any]] = self.driver.execute("getLog", {"type": "browser"})["value"]
        return [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]

    def close(self) -> None:
        self.driver.quit()
