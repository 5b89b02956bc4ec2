"""Held calls that wait for a person, or for their deadline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_BLOCK = 1000
"""Ids that are reserved together, so that few holds wait for the disk."""

Resolve = Callable[[str, str, str | None], None]
"""Called once with (verdict, outcome, approver): verdict allow, deny or kill."""

Overtaken = Callable[[], tuple[str, str] | None]
"""What has happened to a held call meanwhile: (verdict, outcome), or None: it still waits."""


def _still_waits() -> None:
    return None


@dataclass(slots=True)
class Waiting:
    """One held call. Times are CLOCK_BOOTTIME ns; `describe` is what `agentd holds` shows."""

    id: str
    tgid: int
    since_ns: int
    deadline_ns: int
    on_timeout: str
    describe: dict[str, Any]
    resolve: Resolve
    overtaken: Overtaken = _still_waits


class Approvals:
    """The calls that wait, by id, each resolved exactly once."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self.last_number = 0
        self.reserved = 0
        """No id above this one has been given out: an engine that is killed leaves this number."""
        self.persist: Callable[[], None] = lambda: None
        """Called when `reserved` has grown, before an id above the old one is given out."""

    def __len__(self) -> int:
        return len(self._waiting)

    def next_id(self) -> str:
        """An id that no other held call of this host's journal has."""
        if self.last_number == self.reserved:
            self.reserved += _BLOCK
            self.persist()
        self.last_number += 1
        return f"h{self.last_number}"

    def continue_after(self, number: int) -> None:
        """Ids go on from `number`, so that a restart does not use one twice."""
        self.last_number = self.reserved = number

    def add(self, waiting: Waiting) -> None:
        """Waits from now on, until an answer, its deadline, or `overtaken`."""
        self._waiting[waiting.id] = waiting

    def all(self) -> list[Waiting]:
        """Every call that waits, the oldest first."""
        return list(self._waiting.values())

    def answer(self, hold_id: str, verdict: str, approver: str) -> bool:
        """A person's answer; False if no call of that id waits (any more)."""
        waiting = self._waiting.pop(hold_id, None)
        if waiting is None:
            return False
        waiting.resolve(verdict, "allowed" if verdict == "allow" else "denied", approver)
        return True

    def expire(self, now_ns: int) -> None:
        """Resolves what has waited too long, and what something else has decided meanwhile."""
        for waiting in list(self._waiting.values()):
            if waiting.id not in self._waiting:
                continue  # resolved together with another
            if now_ns >= waiting.deadline_ns:
                del self._waiting[waiting.id]
                waiting.resolve(waiting.on_timeout, "timeout", None)
            elif (overtaken := waiting.overtaken()) is not None:
                del self._waiting[waiting.id]
                waiting.resolve(*overtaken, None)

    def gone(self, tgid: int) -> None:
        """The process that was held has died."""
        for waiting in [each for each in self._waiting.values() if each.tgid == tgid]:
            del self._waiting[waiting.id]
            waiting.resolve("deny", "gone", None)
