"""What a user of the broker must be allowed to do for Celery and this add-on, and what of it one is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import redis
from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

Command: TypeAlias = tuple[object, ...]

#: The commands of kombu, of Celery's result backend and of this package, each with arguments that it can be tried with:
#: {list}, {hash}, {zset}, {set}, {text} and {stream} are keys that are used so.
NEEDED: Final[Sequence[Command]] = (
    # Lists: the levels.
    ("BRPOP", "{list}", 0),
    ("LLEN", "{list}"),
    ("LMOVE", "{list}", "{list}", "RIGHT", "LEFT"),
    ("LPOP", "{list}", 0),
    ("LPOS", "{list}", ""),
    ("LPUSH", "{list}", ""),
    ("LRANGE", "{list}", 0, 0),
    ("LREM", "{list}", 1, ""),
    ("LSET", "{list}", 0, ""),
    ("RPOP", "{list}"),
    ("RPUSH", "{list}", ""),
    # Hashes: what is parked, what workers have, and what was learned.
    ("HDEL", "{hash}", ""),
    ("HEXISTS", "{hash}", ""),
    ("HGET", "{hash}", ""),
    ("HGETALL", "{hash}"),
    ("HINCRBY", "{hash}", "", 0),
    ("HKEYS", "{hash}"),
    ("HLEN", "{hash}"),
    ("HMGET", "{hash}", ""),
    ("HRANDFIELD", "{hash}", 0),
    ("HSCAN", "{hash}", 0),
    ("HSET", "{hash}", "", ""),
    ("HSETNX", "{hash}", "", ""),
    ("HSTRLEN", "{hash}", ""),
    # Sorted sets and sets: when workers took what, traces, and which queues there are.
    ("SADD", "{set}", ""),
    ("SISMEMBER", "{set}", ""),
    ("SMEMBERS", "{set}"),
    ("SREM", "{set}", ""),
    ("ZADD", "{zset}", 0, ""),
    ("ZCOUNT", "{zset}", 0, 0),
    ("ZRANGE", "{zset}", 0, 0),
    ("ZRANGEBYSCORE", "{zset}", 0, 0),
    ("ZREM", "{zset}", ""),
    ("ZREVRANGE", "{zset}", 0, 0),
    ("ZREVRANGEBYSCORE", "{zset}", 0, 0),
    # Texts: leases, switches and results.
    ("DEL", "{text}"),
    ("EXISTS", "{text}"),
    ("EXPIRE", "{text}", 1),
    ("GET", "{text}"),
    ("INCR", "{text}"),
    ("INCRBY", "{text}", 0),
    ("MGET", "{text}"),
    ("PERSIST", "{text}"),
    ("PEXPIRE", "{text}", 1),
    ("PTTL", "{text}"),
    ("SET", "{text}", ""),
    ("SETEX", "{text}", 1, ""),
    ("UNLINK", "{text}"),
    # The log of operations, and what workers tell recorders.
    ("XADD", "{stream}", "*", "entry", ""),
    ("XRANGE", "{stream}", "-", "+"),
    ("XREVRANGE", "{stream}", "+", "-"),
    ("XTRIM", "{stream}", "MINID", 0),
    # Messages to all workers, and the others.
    ("PUBLISH", "{channel}", ""),
    ("PSUBSCRIBE", "{channel}*"),
    ("PUNSUBSCRIBE", "{channel}*"),
    ("SUBSCRIBE", "{channel}"),
    ("UNSUBSCRIBE", "{channel}"),
    ("EVALSHA", "", 0),
    ("SCRIPT LOAD", ""),
    ("SCRIPT EXISTS", ""),
    ("PING",),
    ("TIME",),
)

#: Those that cannot be tried within a transaction.
TRANSACTIONS: Final[Sequence[str]] = ("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH")

#: All of them, as ACL SETUSER takes them.
RULES: Final[Sequence[str]] = sorted(
    f"+{name.lower().replace(' ', '|')}" for name in {*(str(command[0]) for command in NEEDED), *TRANSACTIONS, "SELECT"}
)


@dataclass(slots=True)
class Missing:
    """What a user may not do."""

    #: Commands.
    commands: list[str] = field(default_factory=list)
    #: Keys and channels.
    keys: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """In a few words: "run LREM, XADD or use the keys 'celery'"."""
        parts = (("run", self.commands), ("use the keys", self.keys), ("use the channels", self.channels))
        return " or ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)

    def rules(self, prefix: str = "") -> list[str]:
        """What ACL SETUSER takes to grant it; keys begin with ``prefix``."""
        return [
            *(f"+{each.lower().replace(' ', '|')}" for each in self.commands),
            *([f"~{prefix}*"] if self.keys else []),
            *(["&*"] if self.channels else []),
        ]


def missing(client: RedisClient, queues: Iterable[str]) -> Missing:
    """Try everything that is needed, in a transaction that is discarded, so that nothing of it is done.

    Raises what redis-py raises when the broker is away.
    """
    found = Missing()
    tried = redis.Redis(connection_pool=client.redis.connection_pool, single_connection_client=True)
    try:
        connection: Any = tried.connection
        if not _try(connection, ("MULTI",), found):
            return found
        for queue in queues:
            names = _keys(client, queue)
            for command in NEEDED:
                words = [str(word).format(**names) if isinstance(word, str) else word for word in command]
                _try(connection, (*str(words[0]).split(), *words[1:]), found)
        _try(connection, ("DISCARD",), found)
        if _try(connection, ("MULTI",), found):
            _try(connection, ("EXEC",), found)
        if _try(connection, ("WATCH", client.queue_key("celery", "lease")), found):
            _try(connection, ("UNWATCH",), found)
    finally:
        tried.close()
        client.redis.connection_pool.disconnect()  # whatever was left half done is over with its connection
    return found


def _keys(client: RedisClient, queue: str) -> dict[str, str]:
    return {
        "list": client.level_key(queue, 0),
        "hash": client.queue_key(queue, "held"),
        "zset": client.app_key("traces"),
        "set": f"{client.prefix}_kombu.binding.{queue}",
        "text": client.queue_key(queue, "lease"),
        "stream": client.app_key("audit"),
        "channel": f"{client.prefix}/0.celery.pidbox",
    }


def _try(connection: Any, command: Command, found: Missing) -> bool:
    """Send one command; note what is not allowed about it, and tell whether it was taken."""
    connection.send_command(*command)
    try:
        connection.read_response()
    except ResponseError as exc:
        name = " ".join(map(str, command[:2])) if command[0] == "SCRIPT" else str(command[0])
        _note(name, command, str(exc), found)
        return False
    return True


def _note(name: str, command: Command, said: str, found: Missing) -> None:
    """What is missing, by what each server says: the words differ."""
    said = said.lower()
    if "permission" not in said:
        return
    what, notes = name, found.commands
    if "channel" in said:
        what, notes = str(command[1]), found.channels
    elif "run the" not in said and "key" in said:
        what, notes = str(command[1]), found.keys
    if what not in notes:
        notes.append(what)
