"""What a policy may know, put together from what is remembered in different places."""

from __future__ import annotations

from dataclasses import dataclass, replace

from celery_dynprio.models import Context
from celery_dynprio.policies.charges import charged
from celery_dynprio.ports.stores import RunningStore, ShareStore, Usage


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Learned runtimes and use, what runs now, and what operators have set; None where nobody tells."""

    usage: Usage
    running: RunningStore | None = None
    shares: ShareStore | None = None

    def context(self, now: float) -> Context:
        """Return what is known ``now`` (Unix seconds), except for what is pending."""
        # In this order: a run that ends in between counts twice for a moment, and never not at all.
        running = self.running.read(now) if self.running else ()
        context = Context(now, *self.usage.read(now))
        shares = {each.key: each.share for each in self.shares.read(now)} if self.shares else {}
        return replace(context, running=charged(running, context), shares=shares)
