"""A test of a policy: which task comes first."""

from celery_dynprio import Age, Deadline, FairShare, Weight
from celery_dynprio.testing import pending_task, ranked

policy = 4 * Deadline(horizon=60) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=300)


def test_a_checkout_overtakes_an_old_report():
    report = pending_task("shop.report", waited=200)
    checkout = pending_task("shop.checkout", weight=9, deadline=5)
    assert ranked(policy, [report, checkout]) == [checkout, report]


def test_a_tenant_that_used_little_comes_first():
    flood = pending_task("shop.report", key="megacorp", waited=20)
    other = pending_task("shop.report", key="tenant 1")
    assert ranked(policy, [flood, other], use={"megacorp": 900.0, "tenant 1": 10.0}) == [other, flood]


test_a_checkout_overtakes_an_old_report()  # pytest does this for you
test_a_tenant_that_used_little_comes_first()
