"""The daemon's standard error, which is the system's log under systemd."""

import contextlib
import os
import sys


def log(text: str) -> None:
    """Write one line; never raises.

    The disk that the log is on may be full, or its reader gone (journald starts anew): that must
    end no engine. Nothing is kept for later, so nothing fails at exit either.
    """
    if sys.stderr is None:  # started with it closed: the descriptor may be another file now
        return
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"agentd: {text}\n".encode(errors="backslashreplace"))
