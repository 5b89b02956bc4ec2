"""Where agentd keeps things, and who this host is. Imported by every process, so it stays light."""

import os
import re
from functools import cache
from pathlib import Path

CONFIG_FILE = Path("/etc/agentd/agentd.yaml")
RULES_DIR = Path("/etc/agentd/rules.d")
RUNTIME_DIR = Path("/run/agentd")
STATE_DIR = Path("/var/lib/agentd")

CONTROL_SOCKET = "control.sock"
JOURNAL_FILE = "journal.db"
STATE_FILE = "state.json"
PUBLISHER_DIR = "publisher"

_NOT_IN_TOKEN = re.compile(r"[^A-Za-z0-9_-]+")


def token(name: str) -> str:
    """Make `name` one NATS subject token.

    Everything outside `A-Za-z0-9_-` becomes `-`, so that no dot, space or wildcard is left
    (NATS subject rules), at most 63 characters long. An empty name becomes `_`.
    """
    return _NOT_IN_TOKEN.sub("-", name)[:63] or "_"


def host_name(override: str | None = None) -> str:
    """This host's name as a NATS token: `override`, else the kernel's node name (uname(2))."""
    return token(override or os.uname().nodename)


@cache
def boot_id() -> str:
    """The kernel's boot id, a UUID that changes with every boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def boot_short(boot: str) -> str:
    """The first eight hex digits of a boot id, the part that event ids carry."""
    return boot[:8]


def default_journal(state_dir: Path = STATE_DIR) -> Path:
    """The journal's file for a state directory."""
    return state_dir / JOURNAL_FILE


def state_file(state_dir: Path = STATE_DIR) -> Path:
    """What an engine hands on to the next one."""
    return state_dir / STATE_FILE


def publisher_state_dir(state_dir: Path = STATE_DIR) -> Path:
    """The one directory that the publisher's own user may write."""
    return state_dir / PUBLISHER_DIR


def shipped_rules() -> Path:
    """The policies that come with agentd."""
    return Path(__file__).parent / "shipped_rules"
