"""Observers: what is shown of pending tasks elsewhere."""
