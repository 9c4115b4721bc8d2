"""A Flask app with an application factory, and its tasks."""

from celery import Celery, Task
from flask import Flask

from celery_dynprio import DynPrio, dynprio_task
from celery_dynprio.web import trace_flask

dynprio = DynPrio()


@dynprio_task(weight=5, key="customer")
def render_invoice(customer, invoice): ...


def celery_init_app(app):
    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(app.name, task_cls=FlaskTask)
    celery.config_from_object(app.config["CELERY"])
    dynprio.init_app(celery)  # also makes it Celery's default app, which views in threads need
    app.extensions["celery"] = celery
    return celery


def create_app(broker_url="redis://localhost:6379/0"):
    app = Flask("shop")
    app.config.from_mapping(CELERY={"broker_url": broker_url, "dynprio_queues": ["celery"]})
    celery_init_app(app)
    trace_flask(app)

    @app.get("/render/<customer>/<int:invoice>")
    def render(customer, invoice):
        return render_invoice.delay(customer, invoice).id

    return app
