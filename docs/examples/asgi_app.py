"""An ASGI app and its tasks. Endpoints that are not coroutines run in threads."""

from celery import Celery
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from celery_dynprio import DynPrio, dynprio_task
from celery_dynprio.web import ASGIMiddleware

celery = Celery("shop", broker="redis://localhost:6379/0")
dynprio = DynPrio(celery)


@dynprio_task(weight=5, key="customer")
def render_invoice(customer, invoice): ...


def render(request):
    return PlainTextResponse(render_invoice.delay(request.path_params["customer"], 7).id)


app = Starlette(routes=[Route("/render/{customer}", render)])
app.add_middleware(ASGIMiddleware)
