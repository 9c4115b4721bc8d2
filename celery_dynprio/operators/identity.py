"""Who operates."""

from __future__ import annotations

import getpass
import os
import socket


def operator() -> str:
    """Who runs this process: user and machine, such as ``ada@ops1``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container a user may have a number only
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
