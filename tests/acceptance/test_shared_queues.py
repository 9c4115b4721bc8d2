"""``celery -A proj dynprio run`` many times: the processes share the queues out, and take over from who dies."""

from __future__ import annotations

from typing import Final

from tests.conftest import MakeProject, StartCelery
from tests.nodes import ProcessNode
from tests.processes import wait_until
from tests.servers import Database

QUEUES: Final = ("one", "two", "three", "four")

BODY: Final = f"""
    from celery_dynprio import DynPrio

    app.conf.update(dynprio_queues={QUEUES}, dynprio_embedded=False, dynprio_interval=0.1, dynprio_lease_ttl=3)
    dynprio = DynPrio(app)
"""


def led(database: Database, process: ProcessNode) -> set[str]:
    """The queues that the process leads now."""
    leases = {queue: database.client.get(f"dynprio:{queue}:lease") for queue in QUEUES}
    return {queue for queue, lease in leases.items() if f":{process.pid}:".encode() in (lease or b"")}


def test_processes_share_the_queues_out_and_take_over_from_one_that_is_killed(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery
) -> None:
    project = make_project(valkey.url, BODY)

    def run(name: str) -> ProcessNode:
        return start_celery(project, "dynprio", "run", name=name, ready_line="dynprio ready")

    first = run("first")
    wait_until(lambda: led(valkey, first) == set(QUEUES), message="it leads all")
    second = run("second")
    wait_until(lambda: len(led(valkey, first)) == len(led(valkey, second)) == 2, message="each leads a half")
    first.kill("SIGKILL")
    wait_until(lambda: led(valkey, second) == set(QUEUES), message="the other leads all")
    third = run("third")
    wait_until(lambda: len(led(valkey, second)) == len(led(valkey, third)) == 2, message="each leads a half")
    second.kill("SIGTERM")
    assert second.exit_code == 0
    wait_until(lambda: led(valkey, third) == set(QUEUES), message="the third leads all")
