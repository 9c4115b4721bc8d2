"""Flower with the page Priorities, on which ada and bob may act."""

from celery_dynprio.monitoring import flower

flower.install(writers={"ada", "bob"})
