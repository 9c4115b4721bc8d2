"""What is measured is sent by a thread of its own, and no trouble with that reaches a task."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import pytest

from celery_dynprio.errors import UnsupportedBrokerError
from celery_dynprio.worker.sender import MAX_WAITING, Sender, Senders
from tests.processes import wait_until


class Blocked:
    """A store whose broker does not answer until it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.entered = threading.Event()
        self.answer = threading.Event()
        self.added: list[int] = []
        self.threads: set[int] = set()
        self.closed = False
        self.error = error

    def add(self, entries: Sequence[int], /) -> None:
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.answer.wait()
        if self.error is not None:
            raise self.error
        self.added += entries

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    made = Blocked()
    yield made
    made.answer.set()


def test_entries_are_sent_together_from_another_thread(blocked: Blocked) -> None:
    blocked.answer.set()
    sender = Sender("numbers", lambda: blocked, interval=0.01)
    for n in range(5):
        sender.put(n)
    wait_until(lambda: blocked.added == [0, 1, 2, 3, 4])
    sender.stop(60)
    assert blocked.closed
    assert threading.get_ident() not in blocked.threads


def test_what_waits_is_sent_at_the_end(blocked: Blocked) -> None:
    sender = Sender("numbers", lambda: blocked, interval=3600.0)
    sender.put(1)
    assert blocked.entered.wait(10)
    blocked.answer.set()
    sender.put(2)  # would wait an hour
    sender.stop(60)
    assert blocked.added == [1, 2]


def test_a_broker_that_hangs_blocks_neither_tasks_nor_the_end(blocked: Blocked) -> None:
    lost: list[int] = []
    sender = Sender("numbers", lambda: blocked, lost=lost.append)
    sender.put(-1)
    assert blocked.entered.wait(10)
    for n in range(MAX_WAITING + 5):
        sender.put(n)
    assert (sender.dropped, lost) == (5, [0, 1, 2, 3, 4])
    sender.stop(timeout=0.01)
    blocked.answer.set()
    wait_until(lambda: len(blocked.added) == MAX_WAITING + 1)
    assert blocked.added[1] == 5, "the oldest were dropped"


def test_errors_are_counted_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    broken = Blocked(error=OSError("no broker"))
    broken.answer.set()
    sender = Sender("numbers", lambda: broken, interval=0.01)
    with caplog.at_level(logging.WARNING, logger="celery_dynprio"):
        for sent in range(1, 4):
            sender.put(1)
            wait_until(lambda sent=sent: sender.dropped == sent)  # type: ignore[misc]
        sender.stop(60)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["numbers could not be sent, 1 dropped so far: no broker"]


def test_between_entries_it_does_what_is_due(blocked: Blocked) -> None:
    blocked.answer.set()
    sender = Sender("numbers", lambda: blocked, interval=0.01, idle=0.01)
    reminded = threading.Semaphore(0)

    def remind() -> float | None:
        reminded.release()
        if len(blocked.added) == 1:
            raise OSError("the broker is away")
        return 0.01

    sender.remind = remind
    sender.put(1)
    assert reminded.acquire(timeout=60)
    sender.put(2)
    wait_until(lambda: blocked.added == [1, 2])
    for _ in range(5):
        assert reminded.acquire(timeout=60)
    sender.stop(60)


def test_a_process_that_gets_no_more_threads_tries_again(blocked: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked.answer.set()
    sender = Sender("numbers", lambda: blocked, interval=0.01)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        sender.put(1)
    sender.put(2)
    wait_until(lambda: blocked.added == [1, 2])
    sender.stop(60)


def test_a_broker_that_cannot_keep_anything_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Blocked:
        raise UnsupportedBrokerError("no Redis")

    sender = Sender("numbers", refuse, interval=0.01)
    sender.put(1)
    wait_until(lambda: sender.dropped == 1)
    sender.stop(60)
    assert caplog.records == []


def test_each_process_has_a_sender_of_its_own(blocked: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked.answer.set()
    opened: list[int] = []

    def open_store(_: Sender[int]) -> Blocked:
        opened.append(os.getpid())
        return blocked

    senders = Senders("numbers", open_store)
    ours = os.getpid()
    senders.put(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: ours + 1)
        senders.put(2)
        senders.stop()
    senders.stop()
    senders.stop()
    assert sorted(blocked.added) == [1, 2]
    assert len(opened) == 2


def test_tasks_that_drop_the_oldest_do_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taking(deque[int]):
        """Another thread takes what was counted."""

        def __len__(self) -> int:
            return super().__len__() + 1

    taken = Blocked()
    taken.answer.set()
    sender = Sender("numbers", lambda: taken, interval=0.01)
    monkeypatch.setattr(sender, "_waiting", Taking())
    for number in (1, 2):
        sender.put(number)
        wait_until(lambda: number in taken.added)  # noqa: B023 - it is waited for in this turn
    sender.stop(60)
