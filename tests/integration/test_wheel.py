"""What users install: the wheel holds all that the source tree holds, and says what it is."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    built = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(built), str(ROOT)], check=True)
    return ZipFile(next(built.glob("celery_dynprio-*.whl")))


def test_every_file_of_the_package_is_in_the_wheel(wheel: ZipFile) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "celery_dynprio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "celery_dynprio/py.typed" in packed
    assert "celery_dynprio/brokers/redis/lua/move.lua" in packed
    assert packed == sources


def test_the_command_line_is_an_entry_point_of_celery(wheel: ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(name).decode() == "[celery.commands]\ndynprio = celery_dynprio.cli:dynprio\n"


def test_a_plain_install_needs_only_celery_and_what_that_brings_and_redis(wheel: ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    needed = [line for line in wheel.read(name).decode().splitlines() if line.startswith("Requires-Dist:")]
    plain = {re.split("[^a-z]", line.removeprefix("Requires-Dist: "))[0] for line in needed if "extra ==" not in line}
    assert plain == {"celery", "kombu", "redis", "wcwidth"}  # wcwidth comes with Celery's command line


def test_the_sdist_has_what_its_makefile_calls(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    assert packed >= {
        *(
            ".ci/run",
            ".github/workflows/ci.yml",
            ".luacheckrc",
            ".oxlintrc.json",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "LICENSE",
        ),
        *("Makefile", "README.md", "SECURITY.md", "bench/__main__.py", "docs/site/pages.py"),
        *("example_project/demo/__main__.py", "mkdocs.yml", "pyproject.toml", "tests/oldest.txt", "tests/conftest.py"),
    }
