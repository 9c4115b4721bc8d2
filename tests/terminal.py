"""A terminal of the tests' own: a program runs in it, keys are pressed, and its screen is read."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

from tests.processes import wait_until


class Terminal:
    """A program on a pseudo terminal, which pyte reads as an xterm would."""

    def __init__(
        self, command: Sequence[str], directory: Path, env: Mapping[str, str], *, columns: int = 80, rows: int = 24
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        #: The last that the program wrote; pyte knows no second screen.
        self.output = b""
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **env, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reading = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reading.start()

    def lines(self) -> list[str]:
        """What is on the screen now."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, text: str, deadline: float = 60.0) -> list[str]:
        """Wait until a text is on the screen; return the lines of that look."""
        return self.wait_until(lambda lines: text in "\n".join(lines), repr(text), deadline)

    def wait_until(self, holds: Callable[[list[str]], object], what: str, deadline: float = 60.0) -> list[str]:
        """Wait until something holds of the lines; return those of which it did, as the next look may find others:
        a program draws a screen in pieces.
        """
        lines: list[str] = []

        def look() -> object:
            lines[:] = self.lines()
            return holds(lines)

        try:
            wait_until(look, deadline)
        except AssertionError:
            raise AssertionError(f"{what} is not on the screen:\n{self.text()}") from None
        return lines

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self._screen.resize(rows, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if hasattr(self, "process"):
            os.killpg(self.process.pid, signal.SIGWINCH)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join(10)
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # the program closed its side
                return
            if not data:
                return
            with self._lock:
                self._stream.feed(data)
                self.output = (self.output + data)[-1000:]
