"""What the add-on lives in: Celery's default app, its connections, the user's modules, and Django."""
