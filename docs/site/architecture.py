"""Draws docs/architecture.svg: the wings in their rows, and which imports which. Run it with ``make architecture``.

The rows are those that import-linter checks, and the lines are real imports. A line that others imply is left out.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import grimp
import tomllib

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/architecture.svg"
PACKAGE = "celery_dynprio"

BOX, HEIGHT, GAP, STEP, MARGIN = 112, 30, 22, 66, 20

STYLE = """
  svg { background: #fff; font: 13px sans-serif }
  rect { fill: #e0f2f1; stroke: #00796b }
  text { fill: #111; text-anchor: middle }
  path { fill: none; stroke: #00796b; stroke-opacity: .45; stroke-width: 1.3 }
"""


def rows() -> list[list[str]]:
    """Return the names in each row, from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    return [re.split(r"\s*[|:]\s*", layer) for layer in layers]


def imports(names: list[str]) -> dict[str, set[str]]:
    """Return what each of these imports among the others, without what is implied by a longer way."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = {name: set() for name in names}
    for importer in graph.modules - {PACKAGE}:
        for imported in graph.find_modules_directly_imported_by(importer) - {PACKAGE}:
            source, target = importer.split(".")[1], imported.split(".")[1]
            if source != target:
                found[source].add(target)
    reached = {name: _reach(found, name) for name in names}
    return {name: {each for each in found[name] if not _implied(found[name], reached, each)} for name in names}


def _reach(edges: dict[str, set[str]], start: str) -> set[str]:
    """Everything that can be reached from a name, itself only by a circle."""
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(edges[name])
    return seen


def _implied(direct: set[str], reached: dict[str, set[str]], target: str) -> bool:
    return any(target in reached[other] and other not in reached[target] for other in direct - {target})


def draw() -> str:
    """Return the picture."""
    table = rows()
    width = max(len(row) for row in table) * (BOX + GAP) - GAP + 2 * MARGIN
    height = len(table) * STEP - (STEP - HEIGHT) + 2 * MARGIN
    place = {
        name: (width / 2 + (column - (len(row) - 1) / 2) * (BOX + GAP), MARGIN + line * STEP)
        for line, row in enumerate(table)
        for column, name in enumerate(row)
    }
    lines, boxes = [], []
    for name, targets in imports(list(place)).items():
        for x, y, to_x, to_y in sorted((*place[name], *place[target]) for target in targets):
            start, middle = y + HEIGHT, (y + HEIGHT + to_y) / 2
            lines.append(f'  <path d="M{x:g} {start:g} C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"/>')
    for name, (x, y) in place.items():
        boxes.append(f'  <rect x="{x - BOX / 2:g}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="5"/>')
        boxes.append(f'  <text x="{x:g}" y="{y + 20}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *lines, *boxes, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
