"""Files that traces are read from and written to, one format a module."""
