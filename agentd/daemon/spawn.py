"""How the daemon's processes are started: a bare interpreter with a fixed module path.

`-S` leaves out `site`, and with it every `.pth` start-up hook that some package has put on this
host: they have no business in a root daemon, and cost each process memory and start-up time. `-P`
keeps the working directory off the path. What this process can import, its children can.
"""

import os
import sys
from pathlib import Path

import agentd

_LEAN = {
    "MALLOC_ARENA_MAX": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # else pydantic reads the metadata of every package
}


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` in a bare interpreter."""
    return [sys.executable, "-S", "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with the module path in it."""
    root = str(Path(agentd.__file__).resolve().parent.parent)
    places = dict.fromkeys([root, *(place for place in sys.path if place)])
    return {**os.environ, **_LEAN, "PYTHONPATH": os.pathsep.join(places)}
