"""A real Flower with the page Priorities, and what speaks HTTP to it."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.nodes import Project
from tests.processes import Process, free_port, wait_until

#: What goes into ``flowerconfig.py``, with the arguments of ``install``.
CONFIG: Final = "from celery_dynprio.monitoring import flower\n\nflower.install({})\n"

#: Opens Flower's own API, and so the buttons of the page, to all; without it nobody may act where nobody logs in.
OPEN: Final = {"FLOWER_UNAUTHENTICATED_API": "true"}


class FlowerServer(Process):
    """``celery -A <project> flower`` on a port of its own; ``arguments`` are those of ``install``."""

    def __init__(
        self,
        project: Project,
        directory: Path,
        *options: str,
        arguments: str = "",
        prefix: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "flowerconfig.py").write_text(CONFIG.format(arguments))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        own = [f"--port={self.port}", "--address=127.0.0.1", f"--conf={directory / 'flowerconfig.py'}"]
        given = [f"--url_prefix={prefix.strip('/')}"] if prefix else []
        command = [sys.executable, "-m", "celery", "-A", project.name, "flower", *own, *given, *options]
        path = os.pathsep.join(filter(None, [str(project.directory), os.environ.get("PYTHONPATH")]))
        super().__init__("flower", command, directory, env={"PYTHONPATH": path, **(env or {})})

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        wait_until(self._answers, 60, "Flower answers")

    def _answers(self) -> bool:
        assert self.status == "running", self.logs()
        try:
            return Web(self.url).get("/healthcheck").status == 200
        except OSError:
            return False


class Reply(NamedTuple):
    """What was answered."""

    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Web:
    """A client of one user (``name:password``), with the cookie and the token that the page gave."""

    def __init__(self, url: str, user: str | None = None) -> None:
        self._url = url
        self._headers = {} if user is None else {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}

    def get(self, path: str, **headers: str) -> Reply:
        return self._ask(urllib.request.Request(self._url + path, headers={**self._headers, **headers}))

    def data(self, query: str = "") -> Any:
        """What the page is sent."""
        reply = self.get(f"/priorities/data?{query}")
        assert reply.status == 200, reply.text
        return reply.json

    def log_in(self) -> Web:
        """Load the page, and keep its cookie and its token for what follows."""
        page = self.get("/priorities")
        assert page.status == 200, page.text
        (token,) = re.findall(r'data-token="([^"]+)"', page.text)
        self._headers |= {"Cookie": page.headers["Set-Cookie"].partition(";")[0], "X-XSRFToken": token}
        return self

    def act(self, op: str, ids: Sequence[str] = (), **more: Any) -> Reply:
        """Ask for an operation."""
        return self.post(json.dumps({"op": op, "ids": ids, **more}))

    def post(self, body: str, without: str = "", **headers: str) -> Reply:
        """Send this; ``without`` names a header that is left out."""
        sent = {**self._headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent.pop(without, None)
        return self._ask(urllib.request.Request(f"{self._url}/priorities/do", body.encode(), sent))

    @staticmethod
    def _ask(request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read().decode())
