"""Publishing: where a task goes first, and what its message says."""
