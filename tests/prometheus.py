"""A real Prometheus, and what is to be read from it or by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Process, free_port, wait_until
from tests.servers import missing

ROOT: Final = Path(__file__).parents[1]
ALERTS: Final = ROOT / "docs/monitoring/alerts.yml"
DASHBOARD: Final = ROOT / "docs/monitoring/grafana.json"


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; skips or fails the test if this machine has none."""
    return shutil.which(name) or missing(f"no {name} on this machine: apt-get install prometheus")


def promtool(*arguments: str, text: str = "", directory: Path = ROOT) -> str:
    """Run it and return what it printed; it fails if that does."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def scrape(port: int) -> str:
    """What is exported at a port; "" while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:  # URLError is one, and a connection that ends early raises others
        return ""


def families(text: str) -> dict[str, Metric]:
    """The metrics in a scrape by their name, counters without ``_total``."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float | None:
    """The sum of the samples of this name that have these labels; None if there is none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


def queries() -> list[str]:
    """Every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


class PrometheusServer(Process):
    """One that scrapes ports of this machine twice a second, with alert rules."""

    def __init__(self, directory: Path, ports: Sequence[int], rules: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "rules.yml").write_text(rules)
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(directory / "rules.yml")],
            "scrape_configs": [
                {"job_name": "dynprio", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            ],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))  # which is YAML
        self.port = free_port()
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        files = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        super().__init__("prometheus", [program("prometheus"), listen, *files], directory)

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        wait_until(self._answers, 60, "Prometheus answers")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now."""
        found: list[dict[str, Any]] = self._get("query", {"query": expression})["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, what: str, parameters: Mapping[str, str] | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters or {})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def _answers(self) -> bool:
        assert self.status == "running", self.logs()
        try:
            self._get("status/buildinfo")
        except OSError:
            return False
        return True
