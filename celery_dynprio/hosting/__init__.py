"""What the add-on lives in: Celery's default app, the modules that workers load, and Django's connections."""
