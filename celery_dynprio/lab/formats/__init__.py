"""Files that recordings are read from and written to, one format a module."""
