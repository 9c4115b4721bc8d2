"""One trace with OpenTelemetry."""

from celery import Celery
from celery.signals import worker_process_init
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from celery_dynprio import DynPrio

app = Celery("shop", broker="redis://localhost:6379/0")


@worker_process_init.connect(weak=False)
def instrument(**_):
    CeleryInstrumentor().instrument()


dynprio = DynPrio(app)
