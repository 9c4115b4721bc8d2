"""How many characters of ids people have to type."""

from __future__ import annotations

import pytest

from celery_dynprio.operators.abbreviations import shortest


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], 7),
        (["0f2a0c4e-7d2b"], 7),
        (["0f2a0c4e", "1f2a0c4e"], 7),
        (["invoice-41", "invoice-42", "invoice-42"], 10),
        (["invoice-4", "invoice-42"], 10),
    ],
)
def test_as_many_as_tell_them_apart(ids: list[str], expected: int) -> None:
    assert shortest(ids) == expected
