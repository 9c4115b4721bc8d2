"""Reports yield to everything else while the machine is busy."""

import os

from celery_dynprio import Age, Gauge, Weight


def load_per_cpu() -> float:
    return os.getloadavg()[0] / (os.cpu_count() or 1)


calm = Gauge(load_per_cpu, low=1.5, high=0.5, match="*.report", otherwise=1.0)
policy = 3 * calm + 2 * Weight() + 1 * Age(saturation=300)
