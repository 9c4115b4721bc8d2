"""Trace fields in a custom logging setup: one line for each handler."""

import logging.config

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"trace": {"()": "celery_dynprio.logs.TraceFilter"}},
    "formatters": {"plain": {"format": "%(levelname)s %(trace_id)s %(task_name)s P%(level)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["trace"], "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
logging.config.dictConfig(LOGGING)
