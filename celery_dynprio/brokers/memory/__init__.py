"""Pending tasks in this process's memory: the model for the other brokers, and for simulations."""

from celery_dynprio.brokers.memory.backlog import MemoryBacklog, MemoryScan
from celery_dynprio.brokers.memory.broker import MemoryBroker
from celery_dynprio.brokers.memory.lease import MemoryLeader, MemoryLease

__all__ = ["MemoryBacklog", "MemoryBroker", "MemoryLeader", "MemoryLease", "MemoryScan"]
