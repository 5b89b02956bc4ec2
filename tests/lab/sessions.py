"""A daemon for the tests of the enforce tiers, and programs in its sessions that try things."""

import subprocess
from pathlib import Path

from tests.lab.support.slow_daemon import SlowDaemon

SESSION_S = 400.0
"""An emulated machine is 10 to 25 times as slow, more so under load."""

CALL = "exit(syscall(map { /^-?[0-9]+$/ ? $_ + 0 : $_ } @ARGV) < 0)"
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

    def rules_of(self, event_class: str) -> list[str]:
        """The rules that decided the events of a class, in order."""
        return [
            rule
            for event in self.events(event_class)
            for rule in (event.get("decision") or {}).get("rules", ())
        ]


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
