"""Random ids of traces and spans, as W3C Trace Context writes them.

They come from the system, so that ``random.seed()`` in a task makes no duplicates, and no fork repeats them.
"""

from __future__ import annotations

import os


def new_ids() -> tuple[str, str]:
    """Return a trace id and a span id."""
    digits = os.urandom(24).hex()
    return digits[:32], digits[32:]


def new_traceparent() -> str:
    """Return the ``traceparent`` of a new trace."""
    digits = os.urandom(24).hex()
    return f"00-{digits[:32]}-{digits[32:]}-01"
