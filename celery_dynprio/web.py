"""Middleware that lets tasks published by a web request join the trace of its ``traceparent`` header.

It adds no header to responses, and importing it requires none of the frameworks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, TypeAlias

from celery_dynprio import tracing

Environ: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]


class WSGIMiddleware:
    """Runs each request of a WSGI app in :func:`celery_dynprio.tracing.use`, including the streaming of its body."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        with tracing.use(environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")) as span:
            body = self.app(environ, start_response)
        # Servers recognize these types, and send them faster.
        file_wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(body, (list, tuple)) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper)):
            return body
        return _Body(body, span)


class _Body(Iterator[bytes]):
    """A body that is generated while the server sends it, after the app has returned."""

    def __init__(self, body: Iterable[bytes], span: tracing.Span) -> None:
        self._body = body
        self._parts = iter(body)
        self._span = span

    def __next__(self) -> bytes:
        with tracing.resume(self._span):
            return next(self._parts)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with tracing.resume(self._span):
                close()


class ASGIMiddleware:
    """Runs each HTTP request and each websocket of an ASGI app in :func:`celery_dynprio.tracing.use`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Answer a request (ASGI 3)."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        with tracing.use(headers.get(b"traceparent"), headers.get(b"tracestate")):
            await self.app(scope, receive, send)


def trace_flask(app: Any) -> None:
    """Install :class:`WSGIMiddleware` in a Flask app; doing it twice changes nothing."""
    if not isinstance(app.wsgi_app, WSGIMiddleware):
        app.wsgi_app = WSGIMiddleware(app.wsgi_app)


def django_middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Middleware for Django, sync and async: ``MIDDLEWARE = ["celery_dynprio.web.django_middleware", ...]``."""
    from asgiref.sync import iscoroutinefunction  # noqa: PLC0415 - comes with Django

    if iscoroutinefunction(get_response):

        async def answer_async(request: Any) -> Any:
            with tracing.use(request.headers.get("traceparent"), request.headers.get("tracestate")):
                return await get_response(request)

        return answer_async

    def answer(request: Any) -> Any:
        with tracing.use(request.headers.get("traceparent"), request.headers.get("tracestate")):
            return get_response(request)

    return answer


# What django.utils.decorators.sync_and_async_middleware does, without importing Django.
django_middleware.sync_capable = True  # type: ignore[attr-defined]
django_middleware.async_capable = True  # type: ignore[attr-defined]
