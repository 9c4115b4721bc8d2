"""Any file that holds a recording, told by its name or by what the user says it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.formats import azure, borg, jsonl, swf
from celery_dynprio.lab.formats.jsonl import JsonLines
from celery_dynprio.lab.recording import Entry, Recording
from celery_dynprio.lab.users import Users


@dataclass(frozen=True, slots=True)
class Options:
    """How to read others' workloads; see the module of each format."""

    users: Users = field(default_factory=Users)
    #: "user" or "group": what becomes the key in Standard Workload Format.
    by: str = "user"
    #: Azure's second file; None: beside the first one.
    durations: Path | None = None
    #: Which share of Azure's functions is read.
    sample: float = 1.0


_READERS: Final[dict[str, Callable[[Path, Options], Iterator[Entry]]]] = {
    "swf": lambda path, options: swf.read(path, options.users, options.by),
    "azure": lambda path, options: azure.read(path, options.users, options.durations, sample=options.sample),
    "borg": lambda path, options: borg.read(path, options.users),
}

#: The formats that can be read.
FORMATS: Final = ("jsonl", *_READERS)


def open_recording(path: Path, kind: str | None = None, options: Options | None = None) -> Recording:
    """Return the recording in a file; ``kind`` is one of :data:`FORMATS`, None to tell by the name of the file.

    Raises :class:`~celery_dynprio.errors.ArgumentError` if that does not tell.
    """
    kind, options = kind or format_of(path), options or Options()
    if kind == "jsonl":
        return JsonLines(path)
    read = _READERS[kind]
    return lambda: read(path, options)


def save_recording(path: Path, entries: Iterable[Entry]) -> None:
    """Write a recording as JSON Lines or in Standard Workload Format, by the name of the file."""
    kind = format_of(path)
    if kind == "swf":
        swf.write(path, entries)
    elif kind == "jsonl":
        jsonl.write(path, entries)
    else:
        raise ArgumentError("recording", str(path), "only .jsonl and .swf can be written, each also with .gz")


def format_of(path: Path) -> str:
    """The format that the name of a file tells."""
    if path.is_dir():
        return "jsonl"
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".swf"):
        return "swf"
    if name.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if name.startswith("invocations_per_function"):
        return "azure"
    if name.startswith("instance_events"):
        return "borg"
    raise ArgumentError(
        "recording", str(path), f"the name does not tell its format; say which of {', '.join(FORMATS)} it is"
    )
