"""A run of a task: what its message says about it, in any process, and what the process that runs it knows.

The headers ``traceparent`` and ``dynprio_lineage``, which :mod:`~celery_dynprio.tracing.propagation` writes,
are read here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from celery_dynprio import message
from celery_dynprio.levels import Scale
from celery_dynprio.models import Moved, is_level
from celery_dynprio.tracing.context import Deferred
from celery_dynprio.tracing.span import LINEAGE, TRACEPARENT, TRACESTATE, Span, ancestors, ids, state_of
from celery_dynprio.untrusted import clean, number, whole

#: The number of parts of the lineage header.
LINEAGE_PARTS: Final = 3

#: Higher numbers of retries count as this one.
MAX_RETRIES: Final = 1_000_000

#: The attribute of a request that holds its run.
_RUN: Final = "_dynprio_run"

#: The headers that are kept of a run's message: those that its span and its record need.
_NEEDED: Final = ("id", "task", "root_id", "retries", "eta", TRACEPARENT, TRACESTATE, LINEAGE, message.HEADER)

_HEXADECIMAL: Final = frozenset("0123456789abcdef")

#: Celery's state of a run that has not ended.
STARTED: Final = "STARTED"


class RunReport(NamedTuple):
    """What is known about a run at one moment."""

    run: Running
    #: Celery's state. STARTED while it runs, and if something outside ended it, so that it has no other.
    state: str
    #: Seconds; None while it runs.
    ran: float | None
    #: Type and text of the exception that ended it, in one line.
    error: str
    #: Whether this is the first report of the run.
    first: bool


class Running(Deferred):
    """A run of a task in this process. Its span is made when it is first needed, mostly not in a task's thread.

    The run can be found by its request (:meth:`of`). It keeps no reference to the task's arguments, which may be large
    and are free when the run has ended. ``outer`` has the span around an eager task, ``scale`` returns how the broker
    numbers the levels, and ``started`` is in Unix seconds.
    """

    __slots__ = (
        "_began",
        "_end",
        "_end_reported",
        "_fields",
        "_headers",
        "_key",
        "_leads",
        "delivery_info",
        "host",
        "id",
        "outer",
        "reported",
        "scale",
        "started",
        "task",
    )

    def __init__(
        self,
        task: Any,
        request: Any,
        fields: Mapping[str, Any],
        scale: Callable[[], Scale | None],
        outer: Span | Deferred | None,
    ) -> None:
        super().__init__(_span_of_run)  # and no method of this run: it would keep itself alive
        self.scale = scale
        self.task = task
        self.id = request.id
        self.delivery_info = request.delivery_info
        self.host = request.hostname
        self.outer = outer
        self._fields = tuple(map(fields.get, _NEEDED))
        self._headers: dict[str, Any] | None = None
        self._key = ""
        self._leads = False
        self._end: tuple[object, float, str] | None = None
        #: Whether it was reported, and whether its end was.
        self.reported = self._end_reported = False
        vars(request)[_RUN] = self
        self.started = time.time()
        self._began = time.perf_counter()

    @property
    def headers(self) -> dict[str, Any]:
        """The headers that are kept of its message; None for those that it did not have."""
        if self._headers is None:
            self._headers = dict(zip(_NEEDED, self._fields, strict=True))
        return self._headers

    @property
    def fields(self) -> Any:
        """Our header, whatever it is; None if its message had none."""
        return self._fields[-1]

    @property
    def lone_ids(self) -> tuple[str, str] | None:
        """Trace id and span id of a first try that is alone in its trace, as far as this process knows; else None."""
        _, _, _, retries, _, traceparent, _, lineage, fields = self._fields
        if self._leads or retries or lineage is not None or self._key or not isinstance(fields, dict):
            return None  # without our header, somebody else may have put several tasks into this trace
        known = ids(traceparent)
        return None if known is None else known[:2]

    def lead(self) -> None:
        """Note that it has published a task, which is in its trace."""
        self._leads = True

    @property
    def key(self) -> str:
        """The span id in its message, which is the same in all processes, even if OpenTelemetry gave it another one."""
        return self._key or self.span().span_id

    @property
    def has_ended(self) -> bool:
        """Whether its end is known."""
        return self._end is not None

    def change(self, span: Span) -> None:
        """Use another span for this run, which OpenTelemetry has made."""
        self._key = self.key
        self._span = span

    def end(self, state: object, error: str) -> None:
        """Store how it has ended."""
        self._end = state, time.perf_counter() - self._began, error

    def report(self) -> RunReport | None:
        """Report what is known now; None if its end was reported before. Only one thread at a time may call this.

        A run that ends during the call is either reported as ended, or has ``reported`` set and is reported again.
        """
        first, self.reported = not self.reported, True
        end = self._end  # read after ``reported`` is set
        if end is None:
            return RunReport(self, STARTED, None, "", first)
        if self._end_reported:
            return None
        self._end_reported = True
        state, ran, error = end
        return RunReport(self, state if isinstance(state, str) else STARTED, ran, error, first)

    @classmethod
    def of(cls, request: Any) -> Running | None:
        """Return the run of this request; None if its start was not seen."""
        found = vars(request).get(_RUN)
        return found if isinstance(found, cls) else None


def _span_of_run(run: Running) -> Span:
    """Return the span of a run; two threads that ask for it at once get equal ones."""
    name, scale = run.task.name, run.scale()
    return span_of_headers(run.headers, run.delivery_info, name=name, scale=scale, host=run.host, started=run.started)


def span_of_headers(
    headers: Mapping[str, Any],
    delivery_info: object = None,
    *,
    name: str | None = None,
    scale: Scale | None = None,
    host: str = "",
    started: float | None = None,
) -> Span:
    """Make the span of a run from its message. Never raises; all processes make the same span of the same message.

    ``name`` is the task's name; None takes the one in the headers. ``scale`` is how the broker numbers the
    levels (None if it has none), ``host`` is the worker's name, and ``started`` is when the wait ended (Unix seconds).
    Malformed headers count as absent. Without a trace in the message, the ids are derived from those of task and root.
    """
    delivery = delivery_info if isinstance(delivery_info, Mapping) else {}
    task_id, retries, fields = clean(headers.get("id")), retries_of(headers), headers.get(message.HEADER)
    known = ids(headers.get(TRACEPARENT))
    trace_id, span_id, flags = known or (
        _digest(headers.get("root_id") or task_id)[:32],
        _digest(f"{task_id} {retries}")[:16],
        "01",
    )
    _, rows, parent = _parts(headers.get(LINEAGE))
    return Span(
        trace_id,
        span_id,
        parent if isinstance(parent, str) and len(parent) == 16 and _HEXADECIMAL.issuperset(parent) else "",  # noqa: PLR2004
        int(flags, 16),
        state_of(headers.get(TRACESTATE)) if known else "",
        task_id,
        clean(headers.get("task") if name is None else name),
        clean(delivery.get("routing_key")),
        clean(host),
        level_of(message.moves_of(fields), delivery.get("priority"), scale),
        _wait(fields, started),
        retries + 1,
        started,
        ancestors(rows),
    )


def needed(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return only those headers that a span and its record need."""
    return {name: headers.get(name) for name in _NEEDED}


def retries_of(headers: Mapping[str, Any]) -> int:
    """Return how many times this task was tried before."""
    number = headers.get("retries")
    return min(number, MAX_RETRIES) if type(number) is int and number > 0 else 0


def level_at_publish(headers: Mapping[str, Any], level: int | None = None) -> int | None:
    """Return the level at which a message was published; None if unknown. It is at ``level`` now."""
    known = whole(_parts(headers.get(LINEAGE))[0])
    if known is not None:
        return known
    return published_at(message.moves_of(headers.get(message.HEADER)), level)


def published_at(moves: Sequence[Moved], level: int | None) -> int | None:
    """Return the level at which a message without a lineage was published; None if unknown. It is at ``level`` now."""
    if not moves:
        return level
    return moves[0].source if is_level(moves[0].source) else None


def _parts(header: object) -> Sequence[Any]:
    return header if isinstance(header, list) and len(header) == LINEAGE_PARTS else (None, None, None)


def _digest(text: object) -> str:
    known = text if isinstance(text, str) else ""
    return hashlib.sha256(known.encode(errors="surrogatepass")).hexdigest()


def level_of(moves: Sequence[Moved], priority: object, scale: Scale | None) -> int | None:
    """Return the level of a message: the one to which it was last moved, else the one of its priority."""
    if scale is None or type(priority) is not int:
        return None
    # The priority alone would name a level that all workers take from: see levels.Scale.
    moved = moves[-1].target if moves else -1
    return moved if moved in scale.levels else scale.level_of(priority)


def _wait(fields: object, started: float | None) -> float | None:
    published = number(fields.get("at")) if isinstance(fields, dict) else None
    return None if published is None or started is None else max(started - published, 0.0)
