"""What a process that publishes knows of the leaders' guidance, and when it reads it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_dynprio.levels import Bands
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.guidance import STALE, Guidance
from celery_dynprio.producer import guide
from celery_dynprio.producer.guide import IDLE, BackgroundGuide, Known, Reader
from tests.processes import wait_until

GUIDANCE = Guidance(Bands(0.1, 0.9, 10))


class Connecting:
    """Connects to a broker that knows the same of each queue, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.connected = self.reads = self.rests = self.closed = 0

    def __call__(self) -> Broker:
        self.connected += 1
        stores = SimpleNamespace(guidance=lambda: SimpleNamespace(read=self.read))
        return cast("Broker", SimpleNamespace(stores=stores, rest=self.rest, close=self.close))

    def read(self, queues: list[str]) -> dict[str, Guidance]:
        self.reads += 1
        if self.away:
            raise OSError("away")
        return dict.fromkeys(queues, GUIDANCE)

    def rest(self) -> None:
        self.rests += 1

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def connect() -> Connecting:
    return Connecting()


@pytest.fixture
def reader(connect: Connecting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setattr(guide, "FIRST_READ", 0.0)
    made = Reader(connect, interval=0.001)
    yield made
    made.stop()
    wait_until(lambda: not threads())


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "dynprio guidance"]


def test_what_could_not_be_read_anew_counts_until_it_is_stale() -> None:
    now = 0.0
    known = Known(lambda: now)
    known.take({"celery": GUIDANCE})
    now = STALE - 1
    assert known.of("celery") == GUIDANCE
    now = STALE
    assert known.of("celery") is None


def test_only_queues_that_are_published_to_are_asked_about() -> None:
    now = 0.0
    known = Known(lambda: now)
    known.want("orders")
    now = IDLE
    known.want("mails")
    assert known.queues() == ["orders", "mails"]
    now = IDLE + 1
    assert known.queues() == ["mails"]


def test_a_process_that_publishes_once_connects_to_nothing(connect: Connecting) -> None:
    own = BackgroundGuide(connect)
    for _ in range(3):
        own.wanted("celery")
        assert own.of("celery") is None
    assert (connect.connected, threads()) == (0, [])


def test_it_is_read_again_and_again_over_one_connection_that_is_closed_in_between(
    connect: Connecting, reader: Reader
) -> None:
    reader.wanted("celery")
    wait_until(lambda: connect.rests > 3)
    assert reader.known.of("celery") == GUIDANCE
    assert connect.connected == 1
    assert len(threads()) == 1


def test_the_thread_ends_when_nothing_is_published_and_begins_anew(
    connect: Connecting, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    reader.wanted("celery")
    wait_until(lambda: connect.rests)
    monkeypatch.setattr(guide, "IDLE", -1.0)
    wait_until(lambda: connect.closed == 1 and not threads())
    assert reader.known.of("celery") is None
    monkeypatch.undo()
    monkeypatch.setattr(guide, "FIRST_READ", 0.0)
    reader.wanted("celery")
    wait_until(lambda: reader.known.of("celery"))
    assert connect.connected == 2


def test_a_broker_that_is_away_for_a_moment_takes_nothing_away(connect: Connecting, reader: Reader) -> None:
    reader.wanted("celery")
    wait_until(lambda: reader.known.of("celery"))
    connect.away = True
    reads = connect.reads
    wait_until(lambda: connect.reads > reads + 2)
    assert reader.known.of("celery") == GUIDANCE


def test_a_broker_that_cannot_be_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "FIRST_READ", 0.0)
    answers: list[Callable[[], Any]] = [Connecting(), Connecting()]

    def connect() -> Broker:
        if len(answers) > 1:
            answers.pop()
            raise OSError("away")
        return cast("Broker", answers[0]())

    own = Reader(connect, interval=0.001)
    own.wanted("celery")
    wait_until(lambda: own.known.of("celery"))
    own.stop()


def test_a_process_that_can_start_no_thread_publishes_all_the_same(
    connect: Connecting, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        reader.wanted("celery")
    assert connect.connected == 0
    reader.wanted("celery")
    wait_until(lambda: reader.known.of("celery"))


def test_a_forked_process_reads_for_itself(connect: Connecting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "FIRST_READ", 0.0)
    own = BackgroundGuide(connect)
    own.wanted("celery")
    wait_until(lambda: own.of("celery"))
    first = own._reader
    monkeypatch.setattr(os, "getpid", lambda: -1)
    own.wanted("celery")
    assert own._reader is not first
    wait_until(lambda: connect.connected == 2 and own.of("celery"))
    own.stop()
    assert own.of("celery") is None
    assert first is not None
    first[1].stop()
    wait_until(lambda: not threads())
