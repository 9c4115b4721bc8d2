"""Flower with the tab Priorities, where ada and bob may act."""

from celery_dynprio.monitoring import flower

flower.install(writers={"ada", "bob"})
