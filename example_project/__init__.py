"""A small shop on Celery: orders that must not wait, and bulk work that can."""
