"""Serves metrics to Prometheus on a TCP port."""

from __future__ import annotations

import logging
import threading
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server

logger = logging.getLogger(__name__)

#: Seconds between two attempts to get a port that is in use.
RETRY: Final = 2.0

#: Seconds for answers in progress when the server stops.
STOP_TIMEOUT: Final = 3.0


class Server:
    """Serves in threads of its own; while the port is in use, it keeps trying.

    The port is in use for a moment whenever a reprioritizer takes over from another one on the same machine. That must
    not keep the new one from reprioritizing.
    """

    def __init__(self, registry: CollectorRegistry, port: int, host: str) -> None:
        self._registry = registry
        self._port = port
        self._host = host
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dynprio metrics", daemon=True)

    def start(self) -> None:
        """Start, without waiting for the port."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT)

    def _serve(self) -> None:
        warned = False
        while not self._stop.is_set():
            try:
                server, thread = start_http_server(self._port, self._host, self._registry)
            except OSError as exc:
                if not warned:
                    logger.warning("no metrics yet, trying again: %s:%d: %s", self._host, self._port, exc)
                warned = True
                self._stop.wait(RETRY)
                continue
            logger.info("metrics at http://%s:%d/metrics", self._host, self._port)
            self._stop.wait()
            server.shutdown()
            server.server_close()
            thread.join(STOP_TIMEOUT)
