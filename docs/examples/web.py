"""Tasks continue the trace of the web request that published them."""

from celery import Celery
from flask import Flask

from celery_dynprio import DynPrio
from celery_dynprio.web import trace_flask

celery = Celery("shop", broker="redis://localhost:6379/0")
dynprio = DynPrio(celery)

app = Flask("shop")
trace_flask(app)


@app.get("/order")
def order():
    return celery.send_task("shop.checkout").id
