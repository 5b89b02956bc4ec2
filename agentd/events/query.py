"""Finds events in the journal, for `agentd query` and reports. Reads only, in short transactions.

A long read transaction would keep the WAL from being used again, so results are fetched page by
page. There is no index on time: the range of ids is found by bisection, widened by how late a row
can be (see lateness.py), and rows outside the range are left out.
"""

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentd.events import store
from agentd.events.lateness import late_ns
from agentd.units import parse_duration

_PAGE = 500
_RELATIVE = re.compile(r"\d+(?:\.\d+)?(?:ms|s|m|h|d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; an empty field matches all. Globs are SQLite's (`*`, `?`, `[a-z]`).

    `since_ns` and `until_ns` are nanoseconds since the epoch (`since` <= time < `until`);
    `verdicts` are names; `after_id` starts after that row, to follow a growing journal.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    workload: str = ""
    classes: Sequence[str] = ()
    rule: str = ""
    verdicts: Sequence[str] = ()
    session: str = ""
    limit: int | None = None
    newest_first: bool = False
    after_id: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One event: its row in the journal, its time (ns since the epoch) and its JSON."""

    id: int
    time_ns: int
    body: bytes


class JournalReader:
    """The journal, to read it."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.OperationalError if there is no journal, or it may not be read."""
        self._con = open_for_query(path)

    def close(self) -> None:
        """Close the journal."""
        self._con.close()

    def find(self, query: Query) -> Iterator[Found]:
        """Events that match, in the journal's order or newest first."""
        where, values = self._conditions(query)
        left = query.limit
        low, high = self._id_range(query)
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            order = "DESC" if query.newest_first else "ASC"
            rows = self._con.execute(
                f"SELECT id, time_ns, body FROM events WHERE id BETWEEN ? AND ?{where}"  # noqa: S608
                f" ORDER BY id {order} LIMIT ?",
                (low, high, *values, page),
            ).fetchall()
            for row in rows:
                yield Found(*row)
            if len(rows) < page:
                return
            if left is not None:
                left -= len(rows)
            if query.newest_first:
                high = rows[-1][0] - 1
            else:
                low = rows[-1][0] + 1

    def newest_id(self) -> int:
        """The last row's id, 0 in an empty journal; where following starts."""
        return int(self._con.execute("SELECT max(id) FROM events").fetchone()[0] or 0)

    def _conditions(self, query: Query) -> tuple[str, list[object]]:
        parts: list[str] = []
        values: list[object] = []

        def add(condition: str, *given: object) -> None:
            parts.append(f" AND {condition}")
            values.extend(given)

        if query.since_ns is not None:
            add("time_ns >= ?", query.since_ns)
        if query.until_ns is not None:
            add("time_ns < ?", query.until_ns)
        if query.workload:
            add("workload GLOB ?", query.workload)
        if query.session:
            add("session GLOB ?", query.session)
        if query.classes:
            add(f"({' OR '.join(['class GLOB ?'] * len(query.classes))})", *query.classes)
        if query.verdicts or query.rule:
            add("verdict IS NOT NULL")
        if query.verdicts:
            add(f"verdict IN ({','.join('?' * len(query.verdicts))})", *query.verdicts)
        if query.rule:
            add("' ' || rules || ' ' GLOB ?", f"* {query.rule} *")
        return "".join(parts), values

    def _id_range(self, query: Query) -> tuple[int, int]:
        first, last = self._con.execute("SELECT min(id), max(id) FROM events").fetchone()
        if first is None:
            return 1, 0
        low, high = max(first, query.after_id + 1), last
        late = late_ns(self._con)
        if query.since_ns is not None:
            low = max(low, self._bisect(query.since_ns - late, first, last))
        if query.until_ns is not None:
            high = self._bisect(query.until_ns + late, first, last)
        return low, high

    def _bisect(self, time_ns: int, low: int, high: int) -> int:
        """The first id whose row is not before `time_ns`; `high` if there is none."""
        nearest = "SELECT id, time_ns FROM events WHERE id >= ? ORDER BY id LIMIT 1"
        while low < high:
            middle = (low + high) // 2
            row_id, row_time = self._con.execute(nearest, (middle,)).fetchone()
            if row_time < time_ns:
                low = row_id + 1
            else:
                high = middle
        return low


def open_for_query(path: Path) -> sqlite3.Connection:
    """A read-only connection, also when the engine is not running and left no WAL behind.

    Raises sqlite3.OperationalError.
    """
    wal, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    if index.exists() or (wal.exists() and wal.stat().st_size):
        return store.open_reader(path)
    # Closed cleanly: a read-only connection cannot start without WAL and index, and nobody writes,
    # so the file may be read as it is.
    con = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    con.execute("SELECT max(id) FROM events").fetchone()
    return con


def parse_time(text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since the epoch for `10m` (ago), or an ISO 8601 date or time.

    Without an offset it is local time. Raises ValueError.
    """
    now = time.time_ns() if now_ns is None else now_ns
    if _RELATIVE.fullmatch(text.strip()):
        return now - int(parse_duration(text) * 1e9)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time; write 10m, 2026-11-23 or 2026-11-23T17:40:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.astimezone()
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = delta.days * 86400 + delta.seconds
    return seconds * 1_000_000_000 + delta.microseconds * 1000
