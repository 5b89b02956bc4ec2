"""The short-lived process that reads configuration and rules, seen from the engine.

It writes into a memory file, so that nothing has to be read while it runs; SIGCHLD says when it has
ended. Nothing here is imported but what is needed to start it: the engine does that first of all.
"""

import json
import os
import subprocess
import time
from typing import Any, Final

from agentd.daemon import spawn
from agentd.errors import AgentdError, ConfigError, ConfigErrors

TIMEOUT_S: Final = 60


class LoadError(AgentdError):
    """Configuration and rules could not be read, for a reason that is not written in them."""


class Loading:
    """One such process. It is killed when it takes over a minute."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it with `--config` and `--rules` as in `preload`. Raises LoadError."""
        self._deadline = time.monotonic() + TIMEOUT_S
        try:
            self._output = os.memfd_create("agentd-loading")
        except OSError as error:
            raise LoadError(f"nothing can be read: {error}") from error
        try:
            self._process = subprocess.Popen(
                spawn.command("agentd.daemon.preload", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                env=spawn.environment(),
            )
        except OSError as error:
            os.close(self._output)
            raise LoadError(f"the process that reads the rules did not start: {error}") from error

    @property
    def pid(self) -> int:
        """Until `result`, nobody else's."""
        return self._process.pid

    def done(self) -> bool:
        """Whether it has ended; never waits."""
        if self._process.poll() is not None:
            return True
        if time.monotonic() > self._deadline:
            self._process.kill()
        return False

    def result(self) -> dict[str, Any]:
        """Its document, once; waits until it is there.

        Raises ConfigErrors for what people have written, LoadError if the process was no use.
        """
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with os.fdopen(self._output, "rb") as file:
            file.seek(0)
            text = file.read()
        status = self._process.returncode
        if status != 0:
            what = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
            late = f"; it may take {TIMEOUT_S} s" if time.monotonic() > self._deadline else ""
            raise LoadError(f"the process that reads the rules {what}{late}")
        try:
            document: dict[str, Any] = json.loads(text)
            errors = document.get("errors", [])
            problems = [
                ConfigError(each["file"], each["line"], each["message"], each["mend"])
                for each in errors
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"the process that reads the rules wrote nonsense: {error}") from error
        if problems:
            raise ConfigErrors(problems)
        return document

    def abandon(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.wait()
        os.close(self._output)
