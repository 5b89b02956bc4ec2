"""The engine process: `python -m agentd.daemon.engine`, started by the supervisor.

First of all it starts the process that reads configuration and rules; what the engine itself needs
is imported beside that.
"""

import getopt
import importlib
import os
import signal
import socket
import sys

from agentd.daemon.loading import Loading

_OF_LOADING = frozenset({"--config", "--rules"})


def main(arguments: list[str]) -> int:
    """Returns the exit code.

    `arguments` are --channel FD (to the supervisor), --foreground, --config FILE, --rules DIR.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the supervisor's
    options, _ = getopt.getopt(arguments, "", ["channel=", "foreground", "config=", "rules="])
    given = dict(options)
    os.set_inheritable(int(given["--channel"]), False)  # noqa: FBT003 (it takes no keywords)
    load_arguments = [f"{name}={value}" for name, value in options if name in _OF_LOADING]
    loading = Loading(load_arguments)
    loop = importlib.import_module("agentd.daemon.loop")
    supervisor = socket.socket(fileno=int(given["--channel"]))
    status: int = loop.main(supervisor, loading, load_arguments, foreground="--foreground" in given)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
