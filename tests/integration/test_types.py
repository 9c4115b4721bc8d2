"""Users who check their types: a project passes strictly, and its mistakes are found, with celery-types and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SAMPLE: Final = ROOT / "tests/typed/project.py"

#: What users do who have no celery-types; it changes nothing where they do.
CONFIG: Final = "[mypy]\n[mypy-celery.*]\nignore_missing_imports = True\n"

pytest.importorskip("mypy")  # of the lint extra

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["with celery-types", "without"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has all that this one has, celery-types only where it is wanted."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for installed in [*Path(sysconfig.get_path("purelib")).iterdir(), ROOT / "celery_dynprio"]:
        if request.param == "without" and installed.name.endswith("-stubs"):
            continue
        if (
            not installed.name.startswith(("__editable__", "_celery_dynprio", "__pycache__"))
            and installed.suffix != ".pth"
        ):
            (site / installed.name).symlink_to(installed)
    shutil.copy(SAMPLE, folder / "project.py")
    (folder / "mypy.ini").write_text(CONFIG)
    return folder / "bin/python"


def test_mypy_strict_finds_what_is_wrong_and_nothing_else(python: Path) -> None:
    folder = python.parents[1]
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "project.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == "Success: no issues found in 1 source file\n"


def test_pyright_finds_what_is_wrong_and_nothing_else(python: Path) -> None:
    pytest.importorskip("pyright")
    if shutil.which("node") is None and not os.environ.get("DYNPRIO_REQUIRE_BROKERS"):
        pytest.skip("pyright needs node")
    folder = python.parents[1]
    config = {"typeCheckingMode": "standard", "reportUnnecessaryTypeIgnoreComment": "error", "include": ["project.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("0 errors, 0 warnings, 0 informations\n"), done.stdout
