"""Flower's templates with a tab and a link more. A template that looks otherwise than expected stays as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from tornado.template import Loader, Template

#: Behind the tab of the broker, the last one in all of Flower 2.
_LAST_TAB: Final = re.compile(r"""<li\b(?:(?!</li>).)*reverse_url\('broker'\)(?:(?!</li>).)*</li>""", re.DOTALL)
_CONTAINER: Final = "{% block container %}"


class PageLoader(Loader):
    """Looks for templates in Flower's folder, then in ours."""

    def __init__(self, flower: str, own: Path, **options: Any) -> None:
        super().__init__(flower, **options)
        self._own = own

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Ours are known by their prefix, so that Flower may have any other name."""
        return name if name.startswith("dynprio_") else super().resolve_path(name, parent_path)

    def _create_template(self, name: str) -> Template:
        folder = self._own if name.startswith("dynprio_") else Path(self.root)
        text = (folder / name).read_text(encoding="utf-8")
        return Template(with_additions(name, text), name=name, loader=self)


def with_additions(name: str, text: str) -> str:
    """The text of one of Flower's templates with what we add to it."""
    if name == "navbar.html":
        return _LAST_TAB.sub(lambda found: f'{found[0]}{{% include "dynprio_tab.html" %}}', text, count=1)
    if name == "task.html":
        return text.replace(_CONTAINER, f'{_CONTAINER}{{% include "dynprio_task.html" %}}', 1)
    return text
