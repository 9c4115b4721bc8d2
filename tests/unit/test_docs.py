"""The documentation says what is so: its examples run, and its tables list what there is."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from celery.bin.base import CeleryOption

import celery_dynprio
from celery_dynprio import policies
from celery_dynprio.cli import dynprio
from celery_dynprio.monitoring.flower import install
from celery_dynprio.settings import PREFIX, Settings
from tests.servers import Database

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "example_project/README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
#: The quickstart's blocks are typed word by word in tests/acceptance/test_quickstart.py.
BLOCKS = [
    block
    for page in PAGES
    if page.name != "README.md"
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]
REFERENCE = (ROOT / "docs/reference.md").read_text()


def table(page: str, heading: str) -> Mapping[str, str]:
    """The first two columns of the table under a heading, without the backticks."""
    section = re.split(r"\n## ", page.split(f"\n## {heading}\n", 1)[1])[0]
    rows = [line.strip("|").replace("`", "").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(): row[1].strip() for row in rows}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_runs(path: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", str(path)], check=True)


def test_each_block_is_a_file_and_each_file_a_block() -> None:
    files = {f"# docs/examples/{path.name}\n{path.read_text()}" for path in EXAMPLES}
    assert set(BLOCKS) == files


def test_the_calls_of_the_options_example_say_what_they_are_meant_to(valkey: Database) -> None:
    script = "import runpy, sys; found = runpy.run_path(sys.argv[1]); found['app'].conf.broker_url = sys.argv[2]"
    script += "; found['per_call']()"
    command = [sys.executable, "-W", "error", "-c", script, str(ROOT / "docs/examples/options.py"), valkey.url]
    subprocess.run(command, check=True)
    found = Counter[tuple[str, str, int | None]]()
    for key in valkey.client.scan_iter("celery*"):
        for raw in valkey.client.lrange(key, 0, -1):
            headers = json.loads(raw)["headers"]
            header = headers["dynprio"]
            shown = {name: value for name, value in header.items() if name not in {"at", "due"}}
            due = round(header["due"] - header["at"]) if "due" in header else None
            found[headers["task"].rpartition(".")[2], json.dumps(shown, sort_keys=True), due] += 1
    assert found == Counter(
        {
            ("render_invoice", '{"key": "42", "w": 5}', 30): 1,
            ("render_invoice", '{"key": "42", "w": 5}', None): 1,
            ("render_invoice", '{"key": "42", "pin": 0, "w": 5}', 30): 1,
            ("render_invoice", '{"key": "vip", "w": 9}', 5): 1,
            ("archive", '{"n": 1, "w": 7}', None): 1,
            ("archive", '{"key": "archivist", "w": 0}', None): 1,
        }
    )


def test_the_settings_are_those_that_there_are() -> None:
    defaults: dict[str, Any] = {PREFIX + field.name: getattr(Settings(), field.name) for field in fields(Settings)}
    said = {name: default.removesuffix(" s") for name, default in table(REFERENCE, "Settings").items()}
    expected = {name: str(default) for name, default in defaults.items()}
    # The default policy is written without brackets and without ".0", and the default queue is the app's.
    plain = {name: re.sub(r"\.0\b", "", value) for name, value in expected.items() if name == "dynprio_policy"}
    assert said.pop("dynprio_policy") == re.sub(r"FairShare\(.*?\)", "FairShare()", plain["dynprio_policy"])
    assert said.pop("dynprio_queues") == "[task_default_queue]"
    assert said == {name: value for name, value in expected.items() if name not in {"dynprio_policy", "dynprio_queues"}}


def test_the_factors_are_those_that_there_are() -> None:
    documented = set(re.findall(r"\w+(?=\()|@factor", " ".join(table(REFERENCE, "Factors"))))
    factors = set(policies.__all__) - {"BulkScorer", "Factor", "Policy", "Scorer", "default_policy"}
    assert {name.removeprefix("@") for name in documented} == factors


def test_the_commands_and_their_options_are_those_that_there_are() -> None:
    documented = {}
    for row in re.findall(
        r"^\| (`.*?) \| (.*) \|$", REFERENCE.split("\n## Commands\n")[1].split("\n## ")[0], re.MULTILINE
    ):
        for command in re.findall(r"`(\w+)`", row[0]):
            documented[command] = set(re.findall(r"`(--[\w-]+)", row[1]))
    assert documented == {name: _options(command) for name, command in dynprio.commands.items()}


def _options(command: click.Command) -> set[str]:
    ours = [option for option in command.params if isinstance(option, CeleryOption)]
    names = {name for option in ours for name in option.opts if name.startswith("--")}
    return names.union(*map(_options, command.commands.values() if isinstance(command, click.Group) else ()))


def test_help_shows_each_example_on_a_line_of_its_own() -> None:
    for command in (dynprio, dynprio.commands["run"], dynprio.commands["drain"]):
        shown = command.get_help(click.Context(command)).splitlines()
        examples = [line for line in shown if "$ celery" in line]
        assert len(examples) > 1
        assert all(line.startswith("  $ celery -A proj dynprio") and line.count("$") == 1 for line in examples)


def test_every_public_name_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in celery_dynprio.__all__ if f"`{name}" not in text and f"@{name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in slugs, anchor


def test_each_word_is_defined_once_in_the_glossary() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    defined = Counter(re.findall(r"^\| (\w[\w ]*) \|", glossary, re.MULTILINE))
    del defined["word"]
    assert set(defined.values()) == {1}
    assert defined.keys() >= {
        *("managed queue", "front", "level", "place", "window", "parked", "overflow", "held", "pinned"),
        *("policy", "factor", "score", "key", "leader", "lease", "candidate", "trace", "span"),
    }
    linking = [page.relative_to(ROOT).as_posix() for page in PAGES if "glossary.md)" in page.read_text()]
    pages = {f"docs/{name}.md" for name in ("quickstart", "how-to/index", "commands", "discussion")}
    assert {"README.md"} | pages <= set(linking)


def test_each_wing_is_in_the_architecture() -> None:
    discussion = (ROOT / "docs/discussion.md").read_text()
    rows = re.split(r"\n## ", discussion.split("\n## Architecture\n")[1])[0]
    wings = {path.parent.name for path in (ROOT / "celery_dynprio").glob("*/__init__.py")}
    assert {wing for wing in wings if f"`{wing}/`" not in rows} == set()


def test_pictures_are_small() -> None:
    assert {picture.name: picture.stat().st_size // 200_000 for picture in (ROOT / "docs/flower").glob("*.png")} == {
        f"{name}.png": 0 for name in ("light", "dark", "phone", "task")
    }


def test_the_arguments_of_the_page_in_flower_are_those_that_there_are() -> None:
    given = inspect.signature(install).parameters.values()
    assert table(REFERENCE, "The page in Flower") == {each.name: str(each.default) for each in given}
