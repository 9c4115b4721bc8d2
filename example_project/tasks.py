"""What the shop does in the background, and how urgent each task is."""

from __future__ import annotations

import time

from celery import chain

from celery_dynprio import dynprio_task


@dynprio_task(weight=9, deadline=2, key="tenant")
def checkout(tenant: str, order: int) -> None:  # noqa: ARG001 - what a real shop would need
    """Charge the customer, who is watching."""
    _work(0.04)


@dynprio_task(weight=5, deadline=10, key="tenant")
def invoice(tenant: str, order: int) -> None:  # noqa: ARG001
    """Make the invoice."""
    _work(0.05)


@dynprio_task(weight=3, deadline=20, key="tenant")
def notify(tenant: str, order: int) -> None:  # noqa: ARG001
    """Mail the invoice."""
    _work(0.02)


@dynprio_task(key="tenant")
def report(tenant: str, page: int) -> None:  # noqa: ARG001
    """Make one page of a tenant's report; some tenants ask for hundreds at a time."""
    _work(0.05)


@dynprio_task(weight=0)
def reindex(shard: int) -> None:  # noqa: ARG001
    """Rebuild a part of the search index, nightly."""
    _work(0.08)


def order(tenant: str, number: int) -> None:
    """Take an order: the checkout, then the invoice, then the mail."""
    chain(checkout.si(tenant, number), invoice.si(tenant, number), notify.si(tenant, number)).apply_async()


def _work(seconds: float) -> None:
    """Stand in for the real work: it waits, as for a database or another service."""
    time.sleep(seconds)
