"""Run the load three times and compare: ``python -m example_project.demo [--json]``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from example_project.demo.load import expected
from example_project.demo.processes import DemoError, Processes, answers, free_port, running, server_program
from example_project.demo.run import DYNAMIC, PLAIN, STATIC, run_load

DESCRIPTION = """Run a small shop under the same load three times, with plain Celery, with static priorities and with
celery_dynprio, and compare how long its tasks waited. Exits with 1 if any task was lost or ran twice, with 2 if the
demo could not run."""


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print the results as JSON on stdout, and nothing else")
    options = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell starts background jobs with SIGINT ignored
        signal.signal(ending, _interrupt)
    try:
        return demo(as_json=options.json)
    except DemoError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted; everything that it started is stopped", file=sys.stderr)
        return 130


def demo(*, as_json: bool) -> int:
    """Run the load in each setup and show the results; return the exit code."""
    try:
        from example_project.demo.display import Display, show  # noqa: PLC0415 - rich may be missing
    except ModuleNotFoundError as exc:
        if exc.name != "rich":
            raise
        raise DemoError("rich is not installed: use `make demo`, which installs it") from None

    with tempfile.TemporaryDirectory(prefix="shop-") as name, running(Path(name)) as servers:
        directory, broker = Path(name), _server(servers, name)
        display = Display(expected())
        results = {}
        with display.progress:
            for number, setup in enumerate((PLAIN, STATIC, DYNAMIC)):
                display.begin(setup)
                results[setup] = run_load(directory / setup.name, f"{broker}/{number}", display.update, setup)
    if as_json:
        print(json.dumps({setup.name: result.data() for setup, result in results.items()}, indent=2))
    else:
        show(results)
    return 0 if all(result.clean for result in results.values()) else 1


def _server(servers: Processes, directory: str) -> str:
    """Start the embedded server on a free port; return its URL."""
    program, port = server_program(), free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    server = servers.start("server", program, *options)
    server.wait_until(lambda: answers(port))
    return f"redis://127.0.0.1:{port}"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
