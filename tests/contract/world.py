"""A queue to which everything happens at random, with a leader who has to know at each read what is in it.

``python -m tests.contract.world SERVER_URL STEPS SEED`` lets it go on for long, and says how far it came. It went on
for 334,000 steps on Valkey 9.1 (seed 1501), 334,000 on Redis 6.2 (seed 1503), and 470,000 on Redis 7.0 (seeds 1504 and
1505): nothing was lost or doubled. What happens depends on the server's answers, too: a seed alone repeats no run.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from celery_dynprio.brokers.redis import backlog, heads, news
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.stubs import matches
from celery_dynprio.message import HEADER
from celery_dynprio.models import HELD, OVERFLOW, Move, PendingTask, Place, is_level
from tests.apps import make_app

NOW: Final = 1_700_000_000.0
QUEUE: Final = "celery"

#: Few levels, so that their lists get long; and how long all of them together.
LEVELS: Final = (0, 3, 4)
MOST: Final = 60

#: Larger messages (bytes) are large, one call of the script that reads looks at so many, and after so many bytes a read
#: leaves the rest to the next one: that is little of all. How long the bodies are: of messages that are found by
#: comparisons, that are known whole and found by their place, and that are large.
LARGE: Final = 2600
MOST_MESSAGES: Final = 9
READ_BYTES: Final = 45_000
BODIES: Final = {"medium": (1800, 2000), "large": (2400, 4000)}

#: How often each event happens, beside the others.
WEIGHTS: Final = {
    "push": 30,
    "push_again": 4,
    "pop": 20,
    "acknowledge": 10,
    "restore": 12,
    "read": 20,
    "move": 20,
    "spill": 2,
    "steer": 4,
    "rival": 5,
    "meddle": 3,
    "purge": 1,
    "flush": 1,
    "restart": 1,
}


class BrokenOffError(Exception):
    """A read ends before all is read, as if the broker went away."""


class World:
    """One queue, its producers, workers and operators, two reprioritizers, and somebody with a client of his own.

    ``random`` chooses; the part ``checked`` of the reads is compared with all that is there. Raises AssertionError
    where the leader is wrong about the front, or a message lost or doubled.
    """

    def __init__(self, client: RedisClient, random: Random, checked: float = 1.0) -> None:
        self.random = random
        self.checked = checked
        self.client = client
        self.redis: Any = client.redis
        self.redis.flushdb()
        self.keys = [client.level_key(QUEUE, level) for level in client.scale.levels]
        self.hashes = [client.queue_key(QUEUE, what) for what in ("overflow", "held", "cancelled")]
        self.published = 0
        #: How often each message is pending, by its tag, and what workers have.
        self.pending: Counter[str] = Counter()
        self.taken: list[tuple[int, bytes]] = []
        self.reading = False
        #: What others did since what is known was read, and since the current read began, that no read can tell at once
        #: if both happened: a message was taken out without a count, and the newest that is known published again, or
        #: one that the leader then moves, so that a list is as long as it was and begins and ends as it did.
        self.strange: set[str] = set()
        self.lately: set[str] = set()
        #: Whether the leader may be wrong therefore, until a comparison finds it, and how many reads found it so.
        self.doubted = False
        self.wrong = 0
        self.leader = RedisBacklog(client, QUEUE, beat=self.interfere)
        self.rivals = RedisBacklog(client, QUEUE)
        self.known: list[tuple[PendingTask, Place]] = []

    def step(self) -> None:
        """Let one thing happen."""
        (event,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        getattr(self, event)()

    def interfere(self) -> None:
        """What others do between two calls of the leader."""
        if self.reading and self.random.random() < 0.02:
            raise BrokenOffError
        if self.reading and self.random.random() < 0.4:
            getattr(self, self.random.choice(["push", "push_again", "pop", "restore", "meddle", "steer", "purge"]))()

    def push(self) -> None:
        """A producer publishes: a message of any kind."""
        raws = []
        for _ in range(min(self.random.choice((1, 1, 2, 20)), max(MOST + 1 - self.pending.total(), 0))):
            self.published += 1
            raws.append(message(self.published, self.random))
        if raws:
            self._push(*raws)

    def push_again(self) -> None:
        """Somebody publishes what is there already, to the letter."""
        key = self.random.choice(self._lists())
        raws = self.redis.lrange(key, 0, -1)
        if raws and self.pending.total() <= MOST:
            raw = self.random.choice(raws)
            self._note_newest(raw)
            self._push(raw)

    def pop(self) -> None:
        """A worker takes some messages."""
        level = self.random.choice(LEVELS)
        for raw in self.redis.rpop(self.keys[level], self.random.choice((1, 1, 2, 15))) or ():
            self.taken.append((level, raw))
            self._left(raw)

    def acknowledge(self) -> None:
        """A worker is done with some."""
        self.random.shuffle(self.taken)
        del self.taken[len(self.taken) // 2 :]

    def restore(self) -> None:
        """Kombu gives back what a worker had, at either end, the first time with a mark."""
        pipe = self.redis.pipeline(transaction=False)
        for _ in range(min(self.random.choice((1, 2, 10)), len(self.taken))):
            level, raw = self.taken.pop(self.random.randrange(len(self.taken)))
            again = raw
            self._note_newest(raw)
            if self.random.random() < 0.5 and raw.startswith(b"{"):
                again = json.dumps({**json.loads(raw), "redelivered": True}).encode()
            push = self.random.choice([pipe.rpush, pipe.rpush, pipe.lpush])
            push(self.keys[level], again)
            self.pending[tag(again)] += 1
        pipe.execute()

    def read(self) -> None:
        """The leader reads, while others go on; the read may break off."""
        self.leader._news.checked = self.random.random() < self.checked
        self.lately.clear()
        begun = bool(self.leader._front._begun)
        self.reading = True
        try:
            snapshot = self.leader.read(NOW)
        except BrokenOffError:
            return
        except AssertionError:
            if not self.doubted:
                raise
            self.doubted = False  # what ends a read ends what is known
            self.wrong += 1
            return
        finally:
            self.reading = False
        if not begun and not self.leader._front._begun:  # otherwise part of what is known is older than this read
            self.strange = set(self.lately)
        if self.doubted and len(self.strange) < 2:
            self.doubted = not self._knows_all()
        self.known = [(task, level) for level, tasks in enumerate(snapshot.levels) for task in tasks]
        self.known += [(task, OVERFLOW) for task in snapshot.overflow.values()]

    def move(self) -> None:
        """The leader moves some of what it read, which may be elsewhere by now."""
        if self.known:
            chosen = self.random.sample(self.known, min(len(self.known), self.random.choice((1, 3, 12))))
            targets = [*LEVELS, *LEVELS, OVERFLOW]
            moves = [Move(task, place, self.random.choice(targets), 0.5, "score") for task, place in chosen]
            self._note_doubles()
            self.leader.apply([move for move in moves if move.source != move.target])

    def spill(self) -> None:
        """The leader parks in bulk."""
        self._note_doubles()
        self.leader.spill(self.random.randint(1, 8), NOW)

    def steer(self) -> None:
        """An operator finds a task and moves, bumps or changes it."""
        operator = RedisBacklog(self.client, QUEUE)
        found = operator.find([f"task {self.random.randint(1, self.published + 1)}" for _ in range(5)], NOW)
        for same in found.values():
            each = same[0]
            target = self.random.choice([*LEVELS, HELD, each.place])
            if target != OVERFLOW and each.task.scheduled is False:
                first = is_level(target) and self.random.random() < 0.3
                changes = self.random.choice([None, {"w": 7}])
                operator.apply([Move(each.task, each.place, target, 0.5, "operator", changes, first=first)])

    def rival(self) -> None:
        """Another reprioritizer reads and moves."""
        levels = enumerate(self.rivals.read(NOW).levels)
        tasks = [(task, level) for level, tasks in levels for task in tasks]
        for task, level in self.random.sample(tasks, min(3, len(tasks))):
            self.rivals.apply([Move(task, level, self.random.choice([*LEVELS, OVERFLOW]), 0.5, "score")])

    def meddle(self) -> None:
        """Somebody with a client of his own takes a message out of a list, or moves one."""
        source, target = self.random.choice(self._lists()), self.random.choice(self._lists())
        raws = self.redis.lrange(source, 0, -1)
        if not raws:
            return
        self._note("taken out")
        if self.random.random() < 0.5:
            raw = self.random.choice(raws)
            self._left(raw)
            self.redis.lrem(source, self.random.choice((1, -1)), raw)
        else:
            ends = self.random.choices(["LEFT", "RIGHT"], k=2)
            self._note_newest(raws[0] if ends[0] == "LEFT" else raws[-1])
            self.redis.lmove(source, target, *ends)

    def purge(self) -> None:
        """All that waits is deleted."""
        if self.random.random() < 0.3:
            self.redis.delete(*self.keys, *self.hashes)
            self.pending.clear()

    def flush(self) -> None:
        """All is deleted, what is counted and remembered as well."""
        if self.random.random() < 0.3:
            self.redis.flushdb()
            self.pending.clear()
            self.taken.clear()

    def restart(self) -> None:
        """Another process leads."""
        self.leader.close()

    def check(self) -> None:
        """Each message is as often there as it should be."""
        pipe = self.redis.pipeline(transaction=False)
        for key in self.keys:
            pipe.lrange(key, 0, -1)
        for key in self.hashes:
            pipe.hvals(key)
        found = Counter(tag(raw) for raws in pipe.execute() for raw in raws)
        assert found == +self.pending, (found - self.pending, self.pending - found)

    def _lists(self) -> list[str]:
        return [self.keys[level] for level in LEVELS]

    def _push(self, *raws: bytes) -> None:
        self.redis.lpush(self.random.choice(self._lists()), *raws)
        self.pending.update(map(tag, raws))

    def _note_newest(self, raw: bytes) -> None:
        for mirror in self.leader._front._mirrors:
            newest = mirror.find(lambda _: True, from_head=True)
            if newest is not None and matches(newest.entry, raw):
                self._note("published again")

    def _note_doubles(self) -> None:
        """Of what was published again since the leader read it, he moves one, and may take it for the other."""
        for key, mirror in zip(self.keys, self.leader._front._mirrors, strict=True):
            raws, entries = self.redis.lrange(key, 0, -1), [item.entry for item in mirror.items]
            for entry in entries:
                if sum(matches(entry, raw) for raw in raws) > entries.count(entry):
                    self._note("published again")

    def _note(self, what: str) -> None:
        self.strange.add(what)
        self.lately.add(what)
        self.doubted |= len(self.strange) > 1

    def _knows_all(self) -> bool:
        """Whether the leader knows all lists as they are."""
        pipe = self.redis.pipeline(transaction=False)
        for key in self.keys:
            pipe.lrange(key, 0, -1)
        known = [[item.entry for item in reversed(mirror.items)] for mirror in self.leader._front._mirrors]
        return all(
            len(entries) == len(raws) and all(map(matches, entries, raws))
            for entries, raws in zip(known, pipe.execute(), strict=True)
        )

    def _left(self, raw: bytes) -> None:
        self.pending[tag(raw)] -= 1


def message(number: int, random: Random) -> bytes:
    """A message of any kind: small, large, with the id of another one, of protocol 1, or no message."""
    kind = random.choice(["small"] * 5 + ["medium"] * 2 + ["large"] * 4 + ["second", "protocol 1", "foreign", "empty"])
    if kind == "empty":
        return b""
    if kind == "foreign":
        return b"foreign %d" % number
    body = "W1tdLCB7fSwge31d" * (random.randint(*BODIES[kind]) // 16 if kind in BODIES else 1)
    task_id = f"task {random.randint(1, number) if kind == 'second' else number}"
    headers: dict[str, Any] = {"id": task_id, "task": "a.task", HEADER: {"at": NOW + number}}
    if kind == "protocol 1":
        headers, body = {}, "e30="
    delivery = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_info": delivery, "priority": 3, "body_encoding": "base64", "delivery_tag": f"tag {number}"}
    about = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": body, **about, "headers": headers, "properties": properties}).encode()


def tag(raw: bytes) -> str:
    """What a message is told apart by, whatever becomes of it."""
    return str(json.loads(raw)["properties"]["delivery_tag"]) if raw.startswith(b"{") else raw.decode()


def patched(patch: Callable[[object, str, object], None]) -> None:
    """Make messages large, and calls and reads short, that else would not be."""
    patch(heads, "LARGE", LARGE)
    patch(news, "LARGE", LARGE)
    patch(backlog, "READ_BYTES", READ_BYTES)
    patch(news, "MOST_MESSAGES", MOST_MESSAGES)


def main(url: str, steps: int, seed: int) -> None:
    """Go on for so many steps. A quarter of the reads is compared with all that is there."""
    patched(setattr)
    app = make_app(url, steps=range(5))
    client = RedisClient.from_app(app)
    world = World(client, Random(seed), checked=0.25)
    began, used = time.monotonic(), time.process_time()
    for step in range(1, steps + 1):
        try:
            world.step()
            if not step % 20:
                world.check()
            if not step % 10_000 or step == steps:
                took, spent = time.monotonic() - began, time.process_time() - used
                told = f"{step} steps in {took:.0f} s, {spent:.0f} s of the processor"
                print(f"seed {seed}: {told}, {world.published} messages", flush=True)
        except BaseException:
            print(f"seed {seed}: step {step}")
            raise


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
