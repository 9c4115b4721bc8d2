"""Connections of the add-on's own give up on a broker that is silent."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_dynprio.hosting.connections import SOCKET_TIMEOUT, new_connection


def timeouts(url: str, timeout: float | None, **given: Any) -> tuple[Any, Any]:
    app = Celery("connections", broker=url, set_as_current=False)
    app.conf.broker_transport_options = given
    connection = new_connection(app, timeout)
    connection.release()
    assert app.conf.broker_transport_options == given, "those of the app stay as they are"
    options = connection.transport_options
    return options.get("socket_timeout"), options.get("socket_connect_timeout")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "sentinel://127.0.0.1:1", "redis://a:1;redis://b:1"])
def test_it_gives_up_after_what_is_asked_or_set_or_a_few_seconds(url: str) -> None:
    assert timeouts(url, None) == (SOCKET_TIMEOUT, SOCKET_TIMEOUT)
    assert timeouts(url, None, socket_timeout=60) == (60, SOCKET_TIMEOUT)
    assert timeouts(url, 1.0, socket_timeout=60) == (1.0, 1.0)


def test_other_transports_are_not_given_options_that_they_do_not_know() -> None:
    assert timeouts("memory://", 1.0) == (None, None)
