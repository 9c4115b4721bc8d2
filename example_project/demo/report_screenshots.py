"""Second part of ``make screenshots``: the page of a replay of the shop's recording, as the docs show it.

Light, dark, and as wide as a phone; Chromium and its driver have to be installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from example_project.demo.run import SHOP
from example_project.demo.screenshots import chromium, shoot

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs" / "lab"

#: CSS pixels.
WIDE: Final = (1280, 1040)
PHONE: Final = (390, 1040)

#: As the how-to "From a recording to a tuned policy" compares them.
POLICIES: Final = ("--policy", "first_try:policy", "--policy", "tuned:policy")


def main() -> None:
    """Replay the recording, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "docs" / "examples")])}
        workload = ("--workers", "1", "--concurrency", "4", "--seeds", "20")
        command = ("dynprio", "replay", str(DOCS / "shop.jsonl.gz"), *workload, *POLICIES, "--html", str(page))
        subprocess.run([sys.executable, "-m", "celery", "-A", SHOP, *command], env=env, check=True)
        for name, size, scheme in (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light")):
            _take(page, DOCS / f"{name}.png", size, scheme)


def _take(page: Path, path: Path, size: tuple[int, int], scheme: str) -> None:
    driver = chromium()
    try:
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        driver.get(page.as_uri())
        shoot(driver, path, size)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
