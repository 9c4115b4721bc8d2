"""Add what led to a failed task to its event in Sentry."""

from celery.signals import celeryd_init

from celery_dynprio import tracing


def before_send(event, hint):
    if "exc_info" in hint and tracing.current() is not None:
        event.setdefault("extra", {})["tasks"] = tracing.report(hint["exc_info"][1])
    return event


@celeryd_init.connect
def start(**_):
    import sentry_sdk  # in workers only

    sentry_sdk.init(dsn="https://key@sentry.example.com/1", before_send=before_send)
