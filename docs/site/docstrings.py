"""Docstrings name other objects by Sphinx's roles; on the site these are links."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`(~?)([\w.]+)`")


def _link(match: re.Match[str]) -> str:
    shown = match[2].rpartition(".")[2] if match[1] else match[2]
    return f'<autoref identifier="{match[2]}" optional><code>{shown}</code></autoref>'


class Roles(griffe.Extension):
    """Turns each role into a link, if the site has that object."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Rewrite the docstring of a module, too."""
        self.on_object(obj=mod)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value).replace("::\n\n    ", ":\n\n    ")
