"""``dynprio top``: what waits, live, and keys to steer it."""
