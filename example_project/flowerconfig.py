"""Flower with the page Priorities: ``celery -A example_project flower --conf=example_project/flowerconfig.py``."""

from celery_dynprio.monitoring import flower

flower.install()
