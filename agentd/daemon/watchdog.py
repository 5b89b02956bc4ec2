"""Tells an engine that hangs from one that works, or that has only not been let run."""

import time
from collections.abc import Callable
from typing import Final

LOOKS: Final = 10
EVERY_S: Final = 1.0


class Watchdog:
    """Counts looks and not time: one who wakes from a suspend has seen nothing of what passed."""

    def __init__(self, last_beat: Callable[[], int]) -> None:
        """`last_beat` returns what changes with every beat."""
        self._last_beat = last_beat
        self._seen = last_beat()
        self._in_vain = 0
        self._next = time.monotonic() + EVERY_S

    def bites(self) -> bool:
        """Whether ten looks, each at least a second after the one before, saw no beat."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY_S
        beat = self._last_beat()
        self._in_vain = self._in_vain + 1 if beat == self._seen else 0
        self._seen = beat
        return self._in_vain >= LOOKS
