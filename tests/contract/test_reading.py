"""Whatever others do, a leader who asks for what is new knows what is there; nothing is lost or doubled."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from celery_dynprio.brokers.redis.client import RedisClient
from tests.apps import make_app
from tests.contract.world import WEIGHTS, World, patched
from tests.servers import Database


class Happening(RuleBasedStateMachine):
    def __init__(self, client: RedisClient) -> None:
        super().__init__()
        self.world = World(client, Random(0))

    @initialize(random=st.randoms(use_true_random=False))
    def choose(self, random: Random) -> None:
        self.world.random = random

    @rule(event=st.sampled_from(sorted(WEIGHTS)))
    def happen(self, event: str) -> None:
        getattr(self.world, event)()

    @rule()
    def read(self) -> None:
        self.world.read()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check()


def test_the_leader_knows_the_front_whatever_happens(server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch.setattr)
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    run_state_machine_as_test(
        lambda: Happening(client),  # type: ignore[arg-type]  # any maker of a machine will do
        settings=settings(
            max_examples=settings().max_examples // 4, stateful_step_count=40, suppress_health_check=list(HealthCheck)
        ),
    )
    client.close()
    app.close()


def test_a_long_life(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch.setattr)
    app = make_app(valkey.url)
    client = RedisClient.from_app(app)
    world = World(client, Random(15))
    for _ in range(1500):
        world.step()
        world.check()
    client.close()
    app.close()
