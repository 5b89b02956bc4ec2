"""Labelled programs of a test's own, and the events of exactly their session."""

import itertools
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon

PYTHON = "/usr/bin/python3"
WORKLOAD = "tested"
_numbers = itertools.count(1)


class Labelled:
    """A command in a session of its own, told from others by its task."""

    def __init__(
        self, daemon: Daemon, command: Sequence[str | Path], workload: str = WORKLOAD
    ) -> None:
        self.daemon = daemon
        self.task = f"test-{os.getpid()}-{next(_numbers)}"
        run = daemon.command("run", "--workload", workload, "--task", self.task)
        self.process = subprocess.Popen(
            [*run, "--", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.output = b""
        self.errors = b""

    def finish(self, text: bytes = b"", timeout: float = 30.0) -> int:
        """Wait for the command and for the end of its session; its exit status."""
        try:
            self.output, self.errors = self.process.communicate(text, timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        self.wait_for(lambda event: event["class"] == "session.end", 10.0)
        return self.process.returncode

    def events(self, event_class: str | None = None) -> list[Message]:
        """The session's events so far, in order."""
        return [
            event
            for event in self.daemon.events(event_class)
            if (event.get("task") or {}).get("objective") == self.task
        ]

    def wait_for(self, predicate: Callable[[Message], bool], timeout: float = 5.0) -> Message:
        """Return the first event of the session that satisfies the predicate."""
        return self.daemon.wait_for(
            lambda event: (
                (event.get("task") or {}).get("objective") == self.task and predicate(event)
            ),
            timeout,
            f"event of {self.task}; it printed {self.output!r} {self.errors!r}",
        )

    def decisions(self, event_class: str | None = None) -> list[Message]:
        """The events on which a rule has something to say."""
        return [event for event in self.events(event_class) if "decision" in event]


def python(daemon: Daemon, code: str, *arguments: object, workload: str = WORKLOAD) -> Labelled:
    """Start a labelled Python program; `arguments` are its sys.argv[1:]."""
    command = [PYTHON, "-S", "-E", "-c", code, *map(str, arguments)]
    return Labelled(daemon, command, workload)


def shell(daemon: Daemon, script: str, workload: str = WORKLOAD) -> Labelled:
    """Start a labelled bash."""
    return Labelled(daemon, ["/bin/bash", "--norc", "-c", script], workload)
