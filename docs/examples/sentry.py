"""The failure report as text, for Sentry and the like."""

from celery.signals import task_failure

from celery_dynprio import tracing


@task_failure.connect
def tell(exception=None, **_):
    print(tracing.report(exception))  # or sentry_sdk.set_context("celery", {"report": ...})
