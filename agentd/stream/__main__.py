"""The publisher's process: `python -m agentd.stream --config-json FD_OR_PATH [--wake-fd N]`.

Started as root it reads the secrets and opens its state directory, becomes an ordinary user that
may still read every file, opens the journal, and gives that up too before the first packet is
sent. Exit codes: 0 stopped, 1 cannot work (said on stderr), 75 (EX_TEMPFAIL) start me again.
"""

import argparse
import asyncio
import logging
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from agentd import paths
from agentd.stream import privileges
from agentd.stream.publisher import Publisher, Restart
from agentd.stream.settings import Settings
from agentd.stream.source import Source
from agentd.stream.state import StateDir

EXIT_AGAIN = 75
_POLL_S = 0.1


def main() -> int:
    """Run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="agentd-publisher")
    parser.add_argument("--config-json", required=True, metavar="FD_OR_PATH")
    parser.add_argument("--wake-fd", type=int, metavar="FD")
    arguments = parser.parse_args()
    parent = os.getppid()
    try:
        config = _read(arguments.config_json)
        logging.basicConfig(
            level=config["log_level"].upper(), format="agentd-publisher: %(message)s"
        )
        logging.getLogger("nats").setLevel(logging.CRITICAL)
        settings = Settings.of(config)
        if not settings.servers:
            print("agentd-publisher: no NATS server is configured", file=sys.stderr)
            return 1
        state = _state_dir(config)
        privileges.become(config["publisher"]["user"])
        source = _source(Path(config["journal"]["path"]))
        privileges.forsake(parent)
        asyncio.run(_run(Publisher(settings, source, state, arguments.wake_fd)))
    except Restart as reason:
        logging.info("starting again: %s", reason)  # noqa: LOG015 (nothing else is set up)
        return EXIT_AGAIN
    except sqlite3.Error as error:
        print(f"agentd-publisher: the journal cannot be read: {error}", file=sys.stderr)
        return EXIT_AGAIN
    except (OSError, ValueError, KeyError) as error:
        print(f"agentd-publisher: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(publisher: Publisher) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, publisher.stop)
    await publisher.run()


def _read(place: str) -> dict[str, Any]:
    if place.isdecimal():
        with os.fdopen(int(place), "rb") as file:
            data = file.read()
    else:
        data = Path(place).read_bytes()
    config: dict[str, Any] = orjson.loads(data)
    return config


def _state_dir(config: dict[str, Any]) -> StateDir:
    path = paths.publisher_state_dir(Path(config["state_dir"]))
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        user = privileges.account(config["publisher"]["user"])
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return StateDir(path)


def _source(journal: Path) -> Source:
    """Wait for the engine to have made its journal."""
    while True:
        try:
            return Source(journal)
        except (sqlite3.OperationalError, FileNotFoundError):
            time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
