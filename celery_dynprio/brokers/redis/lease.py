"""Leader election: one reprioritizer a queue moves, and a stale one cannot.

A lease with a fencing token (Kleppmann, "How to do distributed locking", 2016): every change of hands makes a larger
token, and the broker compares it inside each script that moves, so a leader that slept through its time to live is
refused by the same server that holds the messages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.chunks import chunks
from celery_dynprio.ports.lease import TTL, Holder, Kind, Lease

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

#: Leases in one command: less than a millisecond of the server's time.
AT_ONCE: Final = 500

#: "<token>:<kind>:<owner>", as ``lua/lease_acquire.lua`` writes it.
_FENCE: Final = re.compile(r"(\d{1,19}):([a-z]+):(.*)", re.ASCII | re.DOTALL)


class RedisLease:
    """A lease that Redis keeps: a key with a time to live (``ttl``, seconds, by the server's clock)."""

    def __init__(self, client: RedisClient, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> None:
        self.owner = owner
        self._redis = client.redis
        self.key = client.queue_key(queue, "lease")
        self._counter = client.queue_key(queue, "fence")
        self._arguments = (owner, kind, max(int(ttl * 1000), 1))
        self._acquire = client.script("lease_acquire")
        self._renew = client.script("lease_renew")
        self._release = client.script("lease_release")
        #: What it gave when it was acquired last; None if it is not ours.
        self.fence: str | None = None

    def acquire(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another owner has it."""
        return self.note(self.ask(self._redis))

    def ask(self, connected: Any) -> Any:
        """Send what takes or renews it; return the answer, if ``connected`` is no pipeline."""
        return self._acquire(keys=[self.key, self._counter], args=self._arguments, client=connected)

    def note(self, answer: bytes | None) -> str | None:
        """Take in the answer to :meth:`ask`; return the fence, or None if another owner has it."""
        self.fence = answer.decode() if answer else None
        return self.fence

    def renew(self) -> None:
        """Lengthen it, if it is still ours; from any thread."""
        fence = self.fence
        if fence is not None:
            self._renew(keys=[self.key], args=[self._arguments[-1], fence])

    def release(self) -> None:
        """Give it back, if it is still ours."""
        if self.fence is not None:
            self._release(keys=[self.key], args=[self.fence])
            self.fence = None

    def holder(self) -> Holder | None:
        """Who has it now; None if it is free."""
        value = self._redis.mget(self.key)[0]  # None as well if the key holds no text
        return holder_in(value)


class RedisLeases:
    """The leases of one process on many queues: see :class:`~celery_dynprio.ports.lease.Leases` for the methods.

    Processes that share the same queues out are in a sorted set, each with the time at which it counts no more.
    """

    def __init__(
        self,
        client: RedisClient,
        queues: Collection[str],
        owner: str,
        kind: Kind,
        *,
        ttl: float,
        clock: Callable[[], float],
    ) -> None:
        self._redis = client.redis
        self._renew = client.script("lease_renew")
        self._look = client.script("lease_holders")
        self._ttl = ttl
        self._clock = clock
        self._leases = {queue: RedisLease(client, queue, owner, kind, ttl) for queue in queues}
        self._me = f"{kind}:{owner}"
        same = hashlib.sha1(json.dumps(sorted(self._leases)).encode(), usedforsecurity=False).hexdigest()
        self._key = client.app_key(f"sharing:{same[:16]}")

    def of(self, queue: str) -> RedisLease:
        """Return the lease of one of the queues."""
        return self._leases[queue]

    def holders(self) -> dict[str, Holder]:
        """Return who leads each of the queues."""
        pipe = self._redis.pipeline(transaction=False)
        for part in chunks(list(self._leases.values()), AT_ONCE):
            self._look(keys=[lease.key for lease in part], client=pipe)
        values = chain.from_iterable(pipe.execute())
        found = {queue: holder_in(value) for queue, value in zip(self._leases, values, strict=True)}
        return {queue: holder for queue, holder in found.items() if holder is not None}

    def acquire(self, queues: Collection[str]) -> dict[str, str | None]:
        """Take or renew the leases of some queues."""
        pipe = self._redis.pipeline(transaction=False)
        for queue in queues:
            self._leases[queue].ask(pipe)
        return {queue: self._leases[queue].note(answer) for queue, answer in zip(queues, pipe.execute(), strict=True)}

    def renew(self, leases: Iterable[Lease]) -> None:
        """Lengthen those of these leases that are still ours."""
        held = [(each.key, each.fence) for each in leases if isinstance(each, RedisLease) and each.fence is not None]
        pipe = self._redis.pipeline(transaction=False)
        for part in chunks(held, AT_ONCE):
            keys, fences = zip(*part, strict=True)
            self._renew(keys=keys, args=[max(int(self._ttl * 1000), 1), *fences], client=pipe)
        pipe.execute()

    def meet(self) -> dict[str, int]:
        """Say that this process shares the queues out, and return how many do."""
        now = self._clock()
        pipe = self._redis.pipeline(transaction=False)
        pipe.zadd(self._key, {self._me: now + self._ttl})
        pipe.pexpire(self._key, max(int(self._ttl * 1000), 1))
        pipe.zrangebyscore(self._key, now, "+inf")
        pipe.zrangebyscore(self._key, "-inf", f"({now}")
        *_, members, gone = pipe.execute()
        if gone:
            self._redis.zrem(self._key, *gone)
        return Counter(member.decode().partition(":")[0] for member in members)

    def leave(self) -> None:
        """Say that it does so no more."""
        self._redis.zrem(self._key, self._me)


def holder_in(value: bytes | None) -> Holder | None:
    """Return whom the key of a lease names; None if that is no lease."""
    found = _FENCE.fullmatch(value.decode(errors="replace")) if value else None
    return Holder(found[3], found[2], int(found[1])) if found else None
