"""A round over a thousand managed queues in which nothing waits asks the broker a few times, not a thousand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import ERRORS, RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.keeper import Keeper
from celery_dynprio.engine.loop import serve
from celery_dynprio.engine.pace import MOST_IDLE
from celery_dynprio.engine.sharing import Sharing
from celery_dynprio.models import Report, Role
from celery_dynprio.settings import Settings
from tests.apps import make_app
from tests.servers import Database

QUEUES = tuple(f"queue-{number}" for number in range(1000))

#: Round trips of a tick over an empty queue, and of a look at all queues, at most.
TICK, LOOK = 12, 6


#: What a new connection begins with, and what asks whether it lives.
GREETING = re.compile(rb"\*\d+\r\n\$\d+\r\n(HELLO|AUTH|CLIENT|SELECT|PING)\r\n")


class Trips:
    """Counts what this thread sends to the broker at once, but for what greets it or asks whether it lives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from redis.connection import Connection  # noqa: PLC0415

        self.trips = 0
        send: Any = Connection.send_packed_command
        own = threading.get_ident()

        def counted(connection: Any, command: Any, check_health: bool = True) -> Any:  # noqa: FBT001, FBT002 - redis-py's
            packed = command if isinstance(command, bytes) else b"".join(command)
            if threading.get_ident() == own and not GREETING.match(packed):
                self.trips += 1
            return send(connection, command, check_health)

        monkeypatch.setattr(Connection, "send_packed_command", counted)


@pytest.fixture
def broker(valkey: Database) -> Iterator[RedisBroker]:
    app = make_app(valkey.url)
    made = RedisBroker(RedisClient.from_app(app))
    yield made
    made.close()
    app.close()


def test_a_round_over_idle_queues_takes_few_round_trips(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(queues=QUEUES, interval=0.05, lease_ttl=600.0)
    leases = broker.leases(QUEUES, "one", ttl=600.0)
    chosen = reprioritizers(broker, settings, "one", leases=leases)
    trips, rounds, stop = Trips(monkeypatch), [0], threading.Event()
    ticked: set[str] = set()

    def observe(report: Report) -> None:
        if report.seconds:
            ticked.add(report.queue)

    def finished(reports: Any) -> bool:
        rounds.append(trips.trips)
        assert len(reports) == len(QUEUES)
        return len(rounds) > 5

    serve(
        chosen,
        0.05,
        stop,
        observe,
        finished,
        errors=ERRORS,
        occupied=broker.occupied,
        sharing=Sharing(leases, "one", "dedicated", 0.05, 600.0),
    )
    assert 0 < len(ticked) <= 5 * MOST_IDLE
    # The first round also loads the scripts.
    assert max(after - before for before, after in pairwise(rounds[1:])) <= MOST_IDLE * TICK + LOOK


def test_a_thousand_leases_are_renewed_at_once(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = broker.leases(QUEUES, "one", ttl=600.0)
    keeper = Keeper(600.0, renew=leases.renew)
    leases.acquire(QUEUES)
    for queue in QUEUES:
        keeper.hold(leases.of(queue))
        broker.client.redis.pexpire(broker.client.queue_key(queue, "lease"), 100_000)
    keeper.renew()  # loads the script
    trips = Trips(monkeypatch)
    keeper.renew()
    assert trips.trips <= 2
    assert min(broker.client.redis.pttl(broker.client.queue_key(queue, "lease")) for queue in QUEUES) > 300_000


def test_a_queue_that_fills_up_among_idle_ones_is_put_in_order(broker: RedisBroker) -> None:
    settings = Settings(queues=QUEUES[:50], interval=0.05, lease_ttl=600.0)
    leases = broker.leases(settings.queues, "one", ttl=600.0)
    chosen = reprioritizers(broker, settings, "one", leases=leases)
    stop, found = threading.Event(), threading.Event()
    full = QUEUES[33]

    def observe(report: Report) -> None:
        if report.queue == full and report.front:
            assert report.role is Role.LEADER
            found.set()
            stop.set()

    def serving() -> None:
        sharing = Sharing(leases, "one", "dedicated", 0.05, 600.0)
        serve(chosen, 0.05, stop, observe, errors=ERRORS, occupied=broker.occupied, sharing=sharing)

    thread = threading.Thread(target=serving)
    thread.start()
    other = RedisClient(broker.connection.clone())
    other.redis.lpush(other.level_key(full, 0), b"{}")
    assert found.wait(60)
    thread.join(60)
    other.close()
    assert not thread.is_alive()


def test_what_is_no_lease_is_led_by_nobody(broker: RedisBroker) -> None:
    """A copy of the data by hand leaves a lease without an end; a key of another type is none."""
    redis = broker.client.redis
    redis.set("dynprio:queue-1:lease", "5:dedicated:gone")
    redis.set("dynprio:queue-2:lease", "nonsense", ex=600)
    redis.lpush("dynprio:queue-3:lease", "")
    leases = broker.leases(QUEUES[:5], "one")
    assert leases.acquire(QUEUES[4:5]) == {"queue-4": "1:dedicated:one"}
    assert list(leases.holders()) == ["queue-4"]
    assert None not in leases.acquire(QUEUES[:4]).values()
    assert list(leases.holders()) == list(QUEUES[:5])
    redis.delete("dynprio:queue-3:lease")
    redis.lpush("dynprio:queue-3:lease", "")
    redis.pexpire("dynprio:queue-4:lease", 100_000)
    leases.renew([leases.of(queue) for queue in QUEUES[:5]])
    assert redis.pttl("dynprio:queue-4:lease") <= 10_000, "renewed for the life of a lease"
