"""The picture of the architecture shows the imports that there are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "docs/site"


def test_the_picture_is_up_to_date() -> None:
    pytest.importorskip("grimp")
    pytest.importorskip("tomllib")
    drawing = runpy.run_path(str(SITE / "architecture.py"))
    assert drawing["PICTURE"].read_text() == drawing["draw"](), "run `make architecture`"
