"""Install later, and undo it."""

from celery import Celery

from celery_dynprio import DynPrio

dynprio = DynPrio()


def make_app(broker: str) -> Celery:
    app = Celery("proj", broker=broker)
    dynprio.init_app(app)
    return app


app = make_app("redis://localhost:6379/0")
dynprio.uninstall()
assert DynPrio.of(app) is None
