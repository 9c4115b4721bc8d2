"""What the lease of every broker does: one owner at a time, and a new fence for each change of hands."""

from __future__ import annotations

import pytest

from celery_dynprio.errors import LeaseLostError
from celery_dynprio.models import Move, PendingTask
from celery_dynprio.ports.lease import Holder, Kind
from tests.contract.conftest import Connect
from tests.processes import wait_until

MOVE = Move(PendingTask("id", "work", 1.0), 5, 0, 1.0, "score")


def test_one_owner_has_it_and_keeps_it(connect: Connect) -> None:
    one, other = connect().lease("celery", "one"), connect().lease("celery", "other")
    assert one.holder() is None
    fence = one.acquire()
    assert fence is not None
    assert other.acquire() is None
    assert one.acquire() == fence
    assert other.holder() == Holder("one", "dedicated", 1)


def test_queues_have_leases_of_their_own(connect: Connect) -> None:
    broker = connect()
    assert broker.lease("celery", "one").acquire()
    assert broker.lease("mail", "other").acquire()


def test_who_has_it_not_can_neither_renew_nor_release_it(connect: Connect) -> None:
    one, other = connect().lease("celery", "one"), connect().lease("celery", "other")
    assert one.acquire()
    other.acquire()
    other.renew()
    other.release()
    assert one.holder() == Holder("one", "dedicated", 1)


def test_what_is_given_back_is_free_and_the_next_fence_is_newer(connect: Connect) -> None:
    one, other = connect().lease("celery", "one"), connect().lease("celery", "other")
    fence = one.acquire()
    one.release()
    assert one.holder() is None
    assert other.acquire() not in {None, fence}
    assert other.holder() == Holder("other", "dedicated", 2)
    one.release()
    one.renew()
    assert other.holder() == Holder("other", "dedicated", 2)


def test_it_runs_out_unless_it_is_renewed(connect: Connect) -> None:
    one, other = connect().lease("celery", "one", ttl=0.3), connect().lease("celery", "other")
    assert one.acquire()
    for _ in range(3):
        one.renew()
        assert other.acquire() is None
    wait_until(lambda: other.acquire() is not None)
    one.renew()
    assert one.holder() == Holder("other", "dedicated", 2)


@pytest.mark.parametrize(("lower", "higher"), [("embedded", "dedicated"), ("dedicated", "operator")])
def test_a_higher_kind_takes_it_over_and_is_not_taken_over_back(connect: Connect, lower: Kind, higher: Kind) -> None:
    one, other = connect().lease("celery", "one", lower), connect().lease("celery", "other", higher)
    stale = one.acquire()
    assert other.acquire() not in {None, stale}
    assert one.acquire() is None
    assert connect().lease("celery", "third", higher).acquire() is None


def test_an_owner_of_another_kind_gets_a_new_fence(connect: Connect) -> None:
    stale = connect().lease("celery", "one", "operator").acquire()
    assert connect().lease("celery", "one", "embedded").acquire() not in {None, stale}


def test_a_stale_fence_moves_nothing(connect: Connect) -> None:
    broker = connect()
    one, backlog = broker.lease("celery", "one", "embedded"), broker.backlog("celery")
    stale = one.acquire()
    connect().lease("celery", "other").acquire()
    with pytest.raises(LeaseLostError):
        backlog.apply([MOVE], stale)


def test_a_fence_of_a_lease_that_was_given_back_moves_nothing(connect: Connect) -> None:
    broker = connect()
    lease = broker.lease("celery", "one")
    fence = lease.acquire()
    lease.release()
    with pytest.raises(LeaseLostError):
        broker.backlog("celery").apply([MOVE], fence)


def test_many_leases_are_taken_renewed_and_told_at_once(connect: Connect) -> None:
    queues = [f"queue {number}" for number in range(5)]
    one, other = connect().leases(queues, "one"), connect().leases(queues, "other")
    assert one.holders() == {}
    fences = one.acquire(queues[:3])
    assert set(fences) == set(queues[:3])
    assert None not in fences.values()
    assert one.acquire(queues[:3]) == fences
    assert [bool(fence) for fence in other.acquire(queues[2:]).values()] == [False, True, True]
    assert {queue: holder.owner for queue, holder in other.holders().items()} == dict(
        zip(queues, ["one", "one", "one", "other", "other"], strict=True)
    )
    one.renew([one.of(queue) for queue in queues])
    one.of(queues[0]).release()
    other.renew([one.of(queues[1]), other.of(queues[3])])
    assert list(one.holders()) == queues[1:]


def test_a_lease_of_many_is_like_any_other(connect: Connect) -> None:
    leases = connect().leases(["celery", "mail"], "one")
    fence = leases.of("celery").acquire()
    assert leases.of("celery") is leases.of("celery")
    assert leases.acquire(["celery"]) == {"celery": fence}
    assert connect().lease("celery", "other").acquire() is None
    leases.of("celery").release()
    assert leases.holders() == {}


def test_those_meet_who_have_the_same_queues(connect: Connect) -> None:
    one, other = connect().leases(["a", "b"], "one"), connect().leases(["b", "a"], "other")
    assert one.meet() == {"dedicated": 1}
    assert other.meet() == {"dedicated": 2}
    assert connect().leases(["a", "b"], "worker", "embedded").meet() == {"dedicated": 2, "embedded": 1}
    assert connect().leases(["a"], "third").meet() == {"dedicated": 1}
    other.leave()
    assert one.meet() == {"dedicated": 1, "embedded": 1}


def test_who_is_not_heard_of_for_the_life_of_a_lease_counts_no_more(connect: Connect) -> None:
    connect().leases(["a"], "one", ttl=0.2).meet()
    other = connect().leases(["a"], "other")
    wait_until(lambda: other.meet() == {"dedicated": 1})
