"""A process that the supervisor keeps alive."""

import subprocess
import time
from collections.abc import Callable

from agentd.daemon import spawn

SOON = (0.0, 0.1, 0.5, 1.0)
"""For what others wait for."""
PATIENT = (0.0, 0.5, 2.0, 10.0, 30.0)
"""For what may fail until a person mends it, and says why each time."""
_STOP_S = 5.0
_STEADY_S = 10.0


class Child:
    """One supervised process: started, restarted with a backoff, stopped.

    `pauses`: seconds before it is started after the first end, the second, ..., the last one and
    all that follow. Ten seconds without an end, and the next one is the first again.
    """

    def __init__(self, name: str, pauses: tuple[float, ...] = SOON) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.repeats = False
        """Whether its last end had the status of the one before, and came as soon."""
        self._pauses = pauses
        self._failures = 0
        self._status: int | None = None
        self._started = 0.0
        self._not_before = 0.0

    def start(self, argv: list[str], pass_fds: tuple[int, ...], env: dict[str, str]) -> None:
        """Runs `argv` with these descriptors, and `env` on top of a bare environment."""
        self.process = subprocess.Popen(argv, pass_fds=pass_fds, env=spawn.environment() | env)
        self._started = time.monotonic()

    def reap(self) -> int | None:
        """The exit status if it has just ended, else None."""
        if self.process is None:
            return None
        status = self.process.poll()
        if status is None:
            return None
        self.process = None
        if time.monotonic() - self._started > _STEADY_S:
            self._failures = 0
        self.repeats = self._failures > 0 and status == self._status
        self._status = status
        pause = self._pauses[min(self._failures, len(self._pauses) - 1)]
        self._failures += 1
        self._not_before = time.monotonic() + pause
        return status

    def is_ready(self) -> None:
        """It has come up: should it end now, the next one starts at once."""
        self._failures = 0

    def kill(self) -> None:
        """SIGKILL: it runs no instruction of its own any more, even where it ends later."""
        if self.process is not None:
            self.process.kill()

    def due(self) -> bool:
        """Whether it does not run and its pause is over."""
        return self.process is None and time.monotonic() >= self._not_before

    def stop(self, meanwhile: Callable[[], None] | None = None) -> None:
        """SIGTERM, then SIGKILL after five seconds. `meanwhile` is called until it has ended."""
        if self.process is None:
            return
        self.process.terminate()
        deadline = time.monotonic() + _STOP_S
        while meanwhile and self.process.poll() is None and time.monotonic() < deadline:
            meanwhile()
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
