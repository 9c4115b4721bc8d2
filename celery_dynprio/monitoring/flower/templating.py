"""Flower's templates with an additional tab and link."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from tornado.template import Loader, Template

#: The prefix of our templates, which no template of Flower has.
PREFIX: Final = "dynprio_"

#: The tab of the broker: the last one in Flower 2.1 and 2.2.
_LAST_TAB: Final = re.compile(r"""<li\b(?:(?!</li>).)*reverse_url\('broker'\)(?:(?!</li>).)*</li>""", re.DOTALL)
_TASK_ACTIONS: Final = re.compile(r'<div class="detail-actions">')

#: What is added after the first match of a pattern in one of Flower's templates.
ADDITIONS: Final = {
    "navbar.html": (_LAST_TAB, '{% include "dynprio_tab.html" %}'),
    "task.html": (_TASK_ACTIONS, '{% include "dynprio_task.html" %}'),
}


class PageLoader(Loader):
    """Looks for templates in Flower's folder and in ours."""

    def __init__(self, flower: Path, own: Path, **options: Any) -> None:
        super().__init__(str(flower), **options)
        self._flower, self._own = flower, own

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Leave the names of our own templates as they are; resolve the others like Flower."""
        return name if name.startswith(PREFIX) else super().resolve_path(name, parent_path)

    def missing(self) -> list[str]:
        """Return the names of Flower's templates that are missing or have changed."""
        return [name for name in ADDITIONS if not (self._flower / name).is_file() or self._text(name) is None]

    def _create_template(self, name: str) -> Template:
        text = (self._own / name).read_text(encoding="utf-8") if name.startswith(PREFIX) else self._text(name)
        if text is None:
            text = (self._flower / name).read_text(encoding="utf-8")
        return Template(text, name=name, loader=self)

    def _text(self, name: str) -> str | None:
        """Return the text of one of Flower's templates with our addition; None if it has no place for it."""
        text = (self._flower / name).read_text(encoding="utf-8")
        if name not in ADDITIONS:
            return text
        pattern, addition = ADDITIONS[name]
        changed, found = pattern.subn(lambda match: match[0] + addition, text, count=1)
        return changed if found else None
