"""How far the times of events lie behind their order, so that times can be looked up by bisection.

Rows are in the order in which they were told. What a held call came to is told when the hold is
over, with the time at which it began; and the clock can be set back.
"""

import sqlite3
from collections.abc import Sequence

from agentd.events import store

LEAST_NS = 60_000_000_000
_KEY = "journal.late_ns"
_NEWEST = "SELECT max(time_ns) FROM (SELECT time_ns FROM events ORDER BY id DESC LIMIT 256)"


class Lateness:
    """The writer's side: notes by how much a row is older than one before it, if that grows."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self._newest = int(con.execute(_NEWEST).fetchone()[0] or 0)
        self._noted = late_ns(con)

    def note(self, con: sqlite3.Connection, rows: Sequence[store.Row]) -> int:
        """In the transaction that writes `rows`; returns what `committed` is to be told."""
        times = [row[3] for row in rows]
        self._newest = max([self._newest, *times])
        late = max(self._noted, self._newest - min(times))
        if late > self._noted:
            con.execute(store.SET_KEY, (_KEY, str(late)))
        return late

    def committed(self, late: int) -> None:
        """The transaction is on disk."""
        self._noted = late


def late_ns(con: sqlite3.Connection) -> int:
    """No row is older than any row before it by more than that."""
    found = con.execute("SELECT value FROM kv WHERE key = ?", (_KEY,)).fetchone()
    return max(LEAST_NS, int(found[0]) if found else 0)
