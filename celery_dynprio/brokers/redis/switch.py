"""The kill switch: one key on the broker that stops all moves of all reprioritizers."""

from __future__ import annotations

from celery_dynprio.brokers.redis.client import RedisClient


class RedisSwitch:
    """The switch of one broker. Raises what redis-py raises when the broker is away."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._key = client.app_key("paused")
        self._on = client.script("switch")

    def pause(self) -> None:
        """Stop all moves, from the reprioritizers' next tick on; workers go on. Works out of memory, too."""
        self._on(keys=[self._key], args=["1"])

    def resume(self) -> None:
        """Let the reprioritizers move again."""
        self._redis.delete(self._key)

    def paused(self) -> bool:
        """Whether :meth:`pause` is in force."""
        return bool(self._redis.exists(self._key))
