"""A project in Django: its modules, its database and its transactions, in the processes that we start."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartCelery
from tests.nodes import ProcessNode, Project
from tests.servers import Database

SETTINGS: Final = """
    SECRET_KEY = "x"
    USE_TZ = True
    INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_results"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite"}}
    CELERY_BROKER_URL = "@BROKER@"
    CELERY_RESULT_BACKEND = "django-db"
    CELERY_DYNPRIO_POLICY = "policies:policy"
    CELERY_DYNPRIO_EMBEDDED = False
"""

#: The score of every task is the number of rows: none or many.
POLICIES: Final = """
    from celery_dynprio import Gauge

    def rows():
        from django_celery_results.models import TaskResult
        return TaskResult.objects.count()

    policy = 1 * Gauge(rows, low=0, high=1, every=0.001)
"""

MODULE: Final = """
    import os
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")

    from celery import Celery
    from celery_dynprio import DynPrio, DynPrioTask, dynprio_task

    app = Celery("proj")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    dynprio = DynPrio(app)

    @dynprio_task(name="part")
    def part(n):
        return n

    class Whole(DynPrioTask):
        name = "whole"

        def run(self):
            pass

    whole = app.register_task(Whole())
"""


@pytest.fixture
def project(valkey: Database, tmp_path: Path) -> Project:
    for name, text in (("site_settings", SETTINGS), ("policies", POLICIES), ("proj", MODULE)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).replace("@BROKER@", valkey.url))
    return Project("proj", tmp_path)


def script(project: Project, body: str) -> Any:
    """Run it as a script of the project, in which Django is set up and its tables are there; what it printed."""
    text = "import json, proj, django; django.setup()\n"
    text += "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
    command = [sys.executable, "-c", text + textwrap.dedent(body)]
    return json.loads(subprocess.run(command, cwd=project.directory, check=True, stdout=subprocess.PIPE).stdout)


def finished(node: ProcessNode) -> tuple[int, str]:
    return node.wait(60), node.logs()


def test_a_cancelled_task_is_revoked_in_djangos_database(project: Project, start_celery: StartCelery) -> None:
    task_id = script(project, "print(json.dumps(proj.part.delay(1).id))")
    assert finished(start_celery(project, "dynprio", "cancel", task_id)) == (0, f"{task_id} part: done\n")
    with sqlite3.connect(project.directory / "db.sqlite") as database:
        rows = database.execute("SELECT task_id, status FROM django_celery_results_taskresult").fetchall()
    database.close()
    assert rows == [(task_id, "REVOKED")]


def test_a_gauge_and_a_policy_beside_the_app_are_read_by_every_process(
    valkey: Database, project: Project, start_celery: StartCelery
) -> None:
    script(project, "proj.part.delay(1); print(0)")
    assert valkey.client.llen("celery\x06\x169") == 1  # no row: last
    script(
        project,
        "from django_celery_results.models import TaskResult; TaskResult.objects.create(task_id='a'); print(0)",
    )
    code, log = finished(start_celery(project, "dynprio", "run", "--once"))
    assert code == 0, log
    assert "moved 1" in log
    assert valkey.client.llen("celery") == 1


def test_no_connection_outlives_a_round_of_ticks_or_a_hook(project: Project) -> None:
    found = script(
        project,
        """
        import threading
        from types import SimpleNamespace
        from celery_dynprio import Gauge
        from celery_dynprio.brokers.memory import MemoryBacklog
        from celery_dynprio.engine.guard import _call
        from celery_dynprio.objectives import Objective, Standing
        from celery_dynprio.engine.planner import Planner
        from celery_dynprio.brokers.redis.broker import ERRORS
        from celery_dynprio.engine.loop import serve
        from celery_dynprio.engine.tick import Reprioritizer
        from celery_dynprio.hosting.orm import close_connections
        from celery_dynprio.ports.stores import UsageFigures
        from celery_dynprio.runtimes import Runtimes
        from celery_dynprio.testing import MemoryLease
        from django.db import connection
        from policies import rows

        seen, stop = [], threading.Event()

        def look():
            seen.append(connection.connection is None)
            found = rows()
            seen.append(connection.connection is None)
            return found

        connection.close()  # of the migration
        queue = Reprioritizer(
            backlog=MemoryBacklog("celery"),
            lease=MemoryLease(),
            planner=Planner(10, 100, 0.25),
            policy=1 * Gauge(look, every="1ms"),
            usage=SimpleNamespace(read=lambda now: UsageFigures(Runtimes(), {})),
            paused=lambda: False,
        )
        serve(
            [queue],
            0.01,
            stop,
            lambda _: None,
            lambda _: len(seen) >= 4,
            errors=ERRORS,
            clean_up=close_connections,
        )
        del seen[4:]
        seen.append(connection.connection is None)
        _call(Standing(Objective("a", "b", 1, hook=lambda _: seen.append(rows()))), close_connections)
        seen.append(connection.connection is None)
        print(json.dumps(seen))
        """,
    )
    assert found == [True, False, True, False, True, 0, True]


@pytest.mark.parametrize("task", ["part", "whole"])
def test_tasks_are_published_with_the_commit(project: Project, valkey: Database, task: str) -> None:
    script(
        project,
        f"""
        from django.db import transaction
        args = (1,) if {task!r} == "part" else ()

        try:
            with transaction.atomic():
                proj.{task}.delay_on_commit(*args)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        with transaction.atomic():
            proj.{task}.apply_async_on_commit(args, task_id="committed")
        print(0)
        """,
    )
    (raw,) = [raw for key in valkey.client.scan_iter("celery*") for raw in valkey.client.lrange(key, 0, -1)]
    assert json.loads(raw)["headers"]["id"] == "committed"


def test_a_module_that_cannot_be_imported_ends_a_command_as_it_ends_a_worker(
    project: Project, start_celery: StartCelery
) -> None:
    with (project.directory / "proj.py").open("a") as module:
        module.write('app.conf.imports = ["no_such_module"]\n')
    code, log = finished(start_celery(project, "dynprio", "list"))
    assert code == 1
    assert log.startswith("Error: the app's modules cannot be imported; a worker would fail to start too:\n")
    assert "No module named 'no_such_module'" in log
