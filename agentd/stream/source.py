"""The journal as the publisher sees it: rows above a floor, through a read-only connection."""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agentd.events import store

_ID_START = len(b'{"v":1,"id":"')


@dataclass(frozen=True, slots=True)
class Row:
    """One event to publish: its place in the journal, what its subject is made of, its JSON."""

    id: int
    cls: str
    workload: str | None
    body: bytes

    @property
    def event_id(self) -> str:
        """The id in the envelope; model.EventWriter always writes it in the same place."""
        return self.body[_ID_START : self.body.index(b'"', _ID_START)].decode()


class Source:
    """Open it while the process may still open the journal; it keeps working afterwards."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.OperationalError or OSError while there is no journal to read."""
        self._con = store.open_reader(path)
        self._watch = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.journal = store.journal_id(self._con)

    def replaced(self) -> bool:
        """Whether the engine has put a new journal in this one's place (see store.set_aside)."""
        status = os.fstat(self._watch)
        return status.st_nlink == 0 or not status.st_mode & 0o200

    def after(self, row_id: int, limit: int) -> list[Row]:
        """Up to `limit` rows with a higher id, in order; none while the journal is busy."""
        try:
            found = self._con.execute(
                "SELECT id, class, workload, body FROM events WHERE id > ? ORDER BY id LIMIT ?",
                (row_id, limit),
            ).fetchall()
        except sqlite3.OperationalError:
            return []  # the WAL index is being rebuilt by an engine that starts: soon again
        return [Row(*row) for row in found]

    def find(self, event_id: str) -> int:
        """The row with that event id, 0 if there is none. Reads the whole journal in the end."""
        _, _, rest = event_id.partition(":")
        boot, _, seq = rest.partition(":")
        if not seq.isdecimal():
            return 0
        found = self._con.execute(
            "SELECT events.id FROM boots JOIN events ON events.boot = boots.n"
            " WHERE substr(boots.boot, 1, 8) = ? AND events.seq = ?"
            " ORDER BY events.id DESC LIMIT 1",
            (boot, int(seq)),
        ).fetchone()
        return int(found[0]) if found else 0

    def behind(self, row_id: int) -> int:
        """How many rows are above `row_id`, counted up to 10,000."""
        found = self._con.execute(
            "SELECT count(*) FROM (SELECT 1 FROM events WHERE id > ? LIMIT 10000)", (row_id,)
        ).fetchone()
        return int(found[0])
