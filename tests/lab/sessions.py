"""A daemon for the tests of the enforce tiers, and programs in its sessions that try things."""

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.support.slow_daemon import SlowDaemon

EVENT_S = 60.0
SESSION_S = 400.0
"""An emulated machine is 10 to 25 times as slow, more so under load."""

CALL = "my ($n, @a) = map { /^-?[0-9]+$/ ? $_ + 0 : $_ } @ARGV; exit(syscall($n, @a) < 0)"
"""A perl program: one system call, by number; exit status 1 if it fails."""


_TRY = 'try() { if "$@" >/dev/null 2>&1; then echo "ok $*"; else echo "no $*"; fi; }'


class SessionDaemon(SlowDaemon):
    """Runs scripts in sessions, and says which rules decided what they did."""

    def session(self, workload: str, script: str) -> list[str]:
        """What a shell script prints in a session, line by line.

        `try WORD...` in it runs a command and prints "ok WORD..." or "no WORD...".
        """
        whole = f"{_TRY}\n{script}"
        done = subprocess.run(
            self.run(workload, ["/bin/bash", "-c", whole]),
            capture_output=True,
            text=True,
            timeout=SESSION_S,
            check=False,
        )
        return done.stdout.splitlines()

    def decided_by(self, event_class: str, *rules: str) -> None:
        """Wait until each of these rules has decided an event of a class; AssertionError if not."""
        for rule in rules:
            decided = partial(_is_decided, event_class, rule)
            self.wait_for(decided, EVENT_S, f"{event_class} by {rule}")


def _is_decided(event_class: str, rule: str, event: dict[str, Any]) -> bool:
    return event["class"] == event_class and rule in (event.get("decision") or {}).get("rules", ())


def outcome(lines: list[str], words: str) -> str:
    """Return "ok" or "no" for the `try` whose command begins so; AssertionError if it was not."""
    for line in lines:
        verdict, _, rest = line.partition(" ")
        if rest.startswith(words):
            return verdict
    raise AssertionError(f"{words!r} was not tried: {lines}")


def victim_program(directory: Path) -> Path:
    """Return a copy of sleep under a name that rules of these tests know."""
    path = directory / "victim"
    path.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    path.chmod(0o755)
    return path
