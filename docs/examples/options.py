"""All options of tasks and calls."""

from celery import Celery, chain

from celery_dynprio import DynPrio, DynPrioTask, dynprio_task

app = Celery("proj", broker="redis://localhost:6379/0")
app.conf.update(dynprio_queues=["celery", "mails"], task_routes={"*.send_mail": {"queue": "mails"}})
dynprio = DynPrio(app)


@dynprio_task(weight=5, deadline=30, key="order.customer_id", autoretry_for=(OSError,))
def render_invoice(order, copies=1): ...


@dynprio_task(bind=True, key=lambda name: name)
def greet(self, name): ...


class Archive(DynPrioTask):
    name = "archive"
    dynprio = {"weight": 0}

    def run(self, year): ...


archive = app.register_task(Archive())


@app.task
def send_mail(address): ...


def per_call() -> None:
    order = {"customer_id": 42}
    render_invoice.delay(order)
    render_invoice.apply_async((order,), dynprio={"weight": 9, "deadline": 5, "key": "vip"})
    render_invoice.apply_async((order,), dynprio={"deadline": None})
    render_invoice.apply_async((order,), priority=0)
    chain(archive.si(2024).set(dynprio={"weight": 7}), send_mail.si("a@example.com")).apply_async()
    app.send_task("archive", (2023,), dynprio={"key": "archivist"})


app.conf.beat_schedule = {
    "archive nightly": {"task": "archive", "schedule": 86400.0, "args": (2024,), "options": {"dynprio": {"weight": 2}}},
}
