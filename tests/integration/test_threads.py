"""Tasks that are declared without an app are managed, on the right broker, from every thread of a server or a pool."""

from __future__ import annotations

import asyncio
import logging
import runpy
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from celery import Celery, _state, shared_task
from werkzeug.serving import make_server

from celery_dynprio import DynPrio, dynprio_task
from tests.messages import pending
from tests.servers import Database
from tests.unit.test_web import request

EXAMPLES = Path(__file__).parents[2] / "docs/examples"

T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_app() -> None:
    """As in a process that has just started; tests/conftest.py puts back what was there."""
    _state.default_app = _state._tls.current_app = None


def in_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=30)


def published(database: Database) -> list[tuple[str, Any, Any]]:
    """Name, weight and key of what waits."""
    fields = [(each["headers"]["task"], each["headers"].get("dynprio")) for each in pending(database.client)]
    return [(name.rpartition(".")[2], (header or {}).get("w"), (header or {}).get("key")) for name, header in fields]


def test_from_a_pool_of_threads(valkey: Database) -> None:
    @dynprio_task(weight=9, key="tenant")
    def render(tenant: str) -> None: ...

    @shared_task
    def plain() -> None: ...

    DynPrio(Celery("shop", broker=valkey.url))
    render.delay("here")
    in_thread(lambda: render.delay("there"))
    in_thread(plain.delay)
    assert sorted(published(valkey), key=str) == [("plain", None, None), ("render", 9, "here"), ("render", 9, "there")]
    assert all("dynprio" in each["headers"] for each in pending(valkey.client))


def test_from_the_views_of_a_threaded_flask_server(valkey: Database) -> None:
    example = runpy.run_path(str(EXAMPLES / "flask_app.py"), run_name="flask_app")
    for customer in ("acme", "globex"):  # a factory may be called again, as tests do
        with (
            served(example["create_app"](valkey.url)) as url,
            urllib.request.urlopen(f"{url}/render/{customer}/7") as answer,
        ):
            assert len(answer.read()) == 36
    assert sorted(published(valkey)) == [("render_invoice", 5, "acme"), ("render_invoice", 5, "globex")]


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_from_the_endpoints_of_an_asgi_app(valkey: Database) -> None:
    """Starlette runs them in threads, and so does FastAPI, which is made of it."""
    example = runpy.run_path(str(EXAMPLES / "asgi_app.py"), run_name="asgi_app")
    example["celery"].conf.broker_url = valkey.url
    answer = asyncio.run(request(example["app"], "/render/acme"))
    assert answer["status"] == 200
    assert published(valkey) == [("render_invoice", 5, "acme")]


def make_app(main: str, **options: Any) -> Celery:
    return Celery(main, broker="redis://127.0.0.1:1/0", **options)


def default() -> Celery | None:
    found: Celery | None = _state.default_app
    return found


def test_the_first_app_stays_the_default_one() -> None:
    first, second = make_app("first"), make_app("second")
    installed = [DynPrio(first), DynPrio(second)]
    assert default() is first
    installed[1].uninstall()
    assert default() is first
    installed[0].uninstall()
    assert default() is None


def test_an_app_that_is_not_to_be_current_is_the_default_until_there_is_one_that_is() -> None:
    side = make_app("side", set_as_current=False)
    installed = DynPrio(side)
    assert default() is side
    main = make_app("main")
    DynPrio(main)
    assert default() is main
    installed.uninstall()
    DynPrio(make_app("aside", set_as_current=False))
    assert default() is main


def test_one_that_moves_to_another_app_takes_the_default_along() -> None:
    dynprio = DynPrio(make_app("first"))
    second = make_app("second")
    dynprio.init_app(second)
    assert default() is second


def test_a_default_that_was_set_explicitly_is_kept() -> None:
    chosen = make_app("chosen")
    chosen.set_default()
    DynPrio(make_app("other")).uninstall()
    assert default() is chosen
    dynprio = DynPrio(make_app("another"))
    assert default() is chosen
    dynprio.uninstall()
    assert default() is chosen


def test_a_default_that_was_set_later_is_not_given_back() -> None:
    dynprio = DynPrio(make_app("first"))
    later = make_app("later")
    later.set_default()
    dynprio.uninstall()
    assert default() is later


def test_celerys_fallback_is_nobodys_choice() -> None:
    fallback = in_thread(_state.get_current_app)  # any code that asks for the current app makes it
    assert default() is fallback
    app = make_app("shop")
    DynPrio(app)
    assert default() is app


def test_a_task_that_would_go_to_the_fallback_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    @dynprio_task(name="first")
    def first() -> None: ...

    @dynprio_task(name="second")
    def second() -> None: ...

    installed = DynPrio(make_app("shop"))
    installed.app.finalize()
    installed.uninstall()
    _state._tls.current_app = None
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert in_thread(lambda: [first.app.main, second.app.main]) == ["default", "default"]
    (record,) = caplog.records
    assert "@dynprio_task(app=app)" in record.getMessage()
