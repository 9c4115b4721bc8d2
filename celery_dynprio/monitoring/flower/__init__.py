"""The page Priorities in Flower: ``celery_dynprio.monitoring.flower.install()`` in ``flowerconfig.py``."""

from celery_dynprio.monitoring.flower.install import install

__all__ = ["install"]
