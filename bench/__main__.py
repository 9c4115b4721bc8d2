"""``python -m bench [NAME ...]``: run the named benchmarks, all if none is named, and print JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal

from bench import (
    calibration,
    fairness,
    flower,
    idle,
    keys,
    lab,
    objectives,
    operators,
    order,
    peers,
    publishing,
    reading,
    recording,
    throughput,
    ticks,
)

BENCHMARKS = {
    "throughput": throughput.run,
    "publishing": publishing.run,
    "tracing": throughput.run_tracing,
    "monitoring": throughput.run_monitoring,
    "recording": recording.run,
    "ticks": ticks.run,
    "reading": reading.run,
    "peers": peers.run,
    "idle": idle.run,
    "operators": operators.run,
    "objectives": objectives.run,
    "flower": flower.run,
    "lab": lab.run,
    "keys": keys.run,
    "order": order.run,
    "fairness": fairness.run,
    "calibration": calibration.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which benchmarks; all if none is named")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer pairs: shows that it works")
    options = parser.parse_args()
    # SIGTERM ends Python at once, and would leave the servers and workers of a benchmark behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    figures = {name: BENCHMARKS[name](quick=options.quick) for name in options.names or BENCHMARKS}
    print(json.dumps({"machine": machine, **figures}, indent=2))


if __name__ == "__main__":
    main()
