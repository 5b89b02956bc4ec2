"""Repeats of one event, counted in user space where rules must see each of them."""

from collections.abc import Hashable

_KEYS_MAX = 16384


class Fold:
    """Counts by key; says which counts are worth an event."""

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._counts: dict[int, dict[Hashable, int]] = {}

    def count(self, session: int, key: Hashable) -> int:
        """How often this has happened in the session, or 0 if that need not be told.

        Told are the first `burst` times and then every power of two, as in common.h.
        """
        counts = self._counts.setdefault(session, {})
        if len(counts) >= _KEYS_MAX:
            counts.clear()
        now = counts[key] = counts.get(key, 0) + 1
        return now if now <= self._burst or not now & (now - 1) else 0

    def forget(self, session: int) -> None:
        """The session has ended."""
        self._counts.pop(session, None)
