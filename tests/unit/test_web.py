"""The middleware, in the real frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from celery_dynprio import tracing
from celery_dynprio.web import ASGIMiddleware, WSGIMiddleware, django_middleware, trace_flask

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert tracing.current() is None


def seen() -> str:
    """What a view answers: the trace that it runs in."""
    span = tracing.current()
    return "" if span is None else f"{span.trace_id} {span.parent_span_id} {span.tracestate}"


EXPECTED = f"{TRACE} {SPAN} vendor=1"


# WSGI


def call(app: Callable[..., Iterable[bytes]], **environ: Any) -> str:
    body = app(environ, lambda *_: None)
    try:
        return b"".join(body).decode()
    finally:
        getattr(body, "close", lambda: None)()


def test_wsgi() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return [seen().encode()]

    assert call(WSGIMiddleware(app), HTTP_TRACEPARENT=HEADERS["traceparent"], HTTP_TRACESTATE="vendor=1") == EXPECTED


def test_wsgi_that_streams_stays_in_the_trace_until_it_is_closed() -> None:
    closed = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            yield seen().encode()
            assert tracing.current() is not None
            yield b""
            raise KeyError("of its own")
        finally:
            closed.append(seen())

    body = WSGIMiddleware(app)({"HTTP_TRACEPARENT": HEADERS["traceparent"]}, lambda *_: None)
    parts = iter(body)
    assert next(parts).decode().startswith(TRACE)
    assert tracing.current() is None
    body.close()  # type: ignore[attr-defined]
    assert [each[:32] for each in closed] == [TRACE]


def test_what_servers_send_faster_reaches_them() -> None:
    class FileWrapper(list[bytes]):
        pass

    class Sendfile:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b""])

    for body, kind in ((FileWrapper([b""]), FileWrapper), (Sendfile(), Sendfile)):
        app = WSGIMiddleware(lambda _environ, _start, body=body: body)
        assert app({"wsgi.file_wrapper": kind}, lambda *_: None) is body


def test_an_app_that_raises_leaves_nothing_behind() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        call(WSGIMiddleware(app))


# Flask


def test_flask() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=seen)
    app.add_url_rule("/stream", "stream", lambda: flask.Response(seen() for _ in range(2)))
    plain = dict(app.test_client().get("/").headers)
    trace_flask(app)
    trace_flask(app)
    assert not isinstance(app.wsgi_app.app, WSGIMiddleware)
    client = app.test_client()
    answer = client.get("/", headers=HEADERS)
    assert answer.text == EXPECTED
    assert set(answer.headers.keys()) == set(plain)
    assert client.get("/stream", headers=HEADERS).text == EXPECTED * 2
    first, second = client.get("/").text, client.get("/", headers={"traceparent": "x" * 9999}).text
    assert len(first.split()[0]) == len(second.split()[0]) == 32
    assert first != second


# ASGI


async def request(app: Any, path: str = "/", kind: str = "http", headers: dict[str, str] = HEADERS) -> dict[str, Any]:
    """Answer one request; the status, headers and body of the answer."""
    answer: dict[str, Any] = {"body": b""}

    received = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if received.is_set():
            await asyncio.get_running_loop().create_future()  # the client stays
        received.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.update(status=message["status"], headers=dict(message["headers"]))
        else:
            answer["body"] += message.get("body", b"")

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "asgi": {"version": "3.0"}, "method": "GET", "path": path, "raw_path": path.encode()}
    await app({**scope, "query_string": b"", "headers": raw, "root_path": "", "scheme": "http"}, receive, send)
    return answer


def test_starlette() -> None:
    applications = pytest.importorskip("starlette.applications")
    responses = pytest.importorskip("starlette.responses")
    routing = pytest.importorskip("starlette.routing")

    async def asynchronous(_: Any) -> Any:
        await asyncio.sleep(0)
        return responses.PlainTextResponse(seen())

    def in_thread(_: Any) -> Any:
        return responses.PlainTextResponse(seen())

    async def streamed(_: Any) -> Any:
        async def parts() -> Any:
            yield seen()

        return responses.StreamingResponse(parts())

    views = {"/async": asynchronous, "/thread": in_thread, "/stream": streamed}
    plain = applications.Starlette(routes=[routing.Route(path, view) for path, view in views.items()])
    app = ASGIMiddleware(plain)

    async def main() -> None:
        for path in views:
            answer = await request(app, path)
            assert answer["body"].decode() == EXPECTED
            assert answer["headers"].keys() == (await request(plain, path))["headers"].keys()
        answers = await asyncio.gather(*(request(app, "/async", headers={}) for _ in range(20)))
        assert len({answer["body"] for answer in answers}) == 20
        hostile = await request(app, "/async", headers={"traceparent": "\xff\n" * 1000})
        assert TRACE not in hostile["body"].decode()
        assert tracing.current() is None

    asyncio.run(main())


def test_asgi_lifespan_and_websockets() -> None:
    kinds: dict[str, str] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds[scope["type"]] = seen()

    async def main() -> None:
        await request(ASGIMiddleware(app), kind="lifespan")
        await request(ASGIMiddleware(app), kind="websocket")

    asyncio.run(main())
    assert kinds == {"lifespan": "", "websocket": EXPECTED}


# Django


@pytest.fixture(scope="session")  # it cannot be set up twice in a process
def django() -> Any:
    """Django with our middleware and a view of each kind."""
    made = pytest.importorskip("django")
    settings = pytest.importorskip("django.conf").settings
    response = pytest.importorskip("django.http").HttpResponse
    path = pytest.importorskip("django.urls").path

    def view(_: Any) -> Any:
        return response(seen())

    async def async_view(_: Any) -> Any:
        await asyncio.sleep(0)
        return response(seen())

    class Urls:
        urlpatterns = (path("sync", view), path("async", async_view))

    settings.configure(
        ROOT_URLCONF=Urls,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="x",
        USE_TZ=True,
        MIDDLEWARE=[f"{django_middleware.__module__}.{django_middleware.__name__}"],
    )
    made.setup()
    return made


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_django(django: Any, path: str) -> None:
    test = pytest.importorskip("django.test")
    answer = test.Client().get(path, headers=HEADERS)
    assert answer.content.decode() == EXPECTED
    assert not {"traceparent", "tracestate"} & {name.lower() for name in answer.headers}

    async def main() -> list[str]:
        client = test.AsyncClient()
        answers = await asyncio.gather(*(client.get(path, headers=HEADERS if n else {}) for n in range(3)))
        return [answer.content.decode() for answer in answers]

    other, *same = asyncio.run(main())
    assert same == [EXPECTED] * 2
    assert TRACE not in other
    assert len(other.split()[0]) == 32
