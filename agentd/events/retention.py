"""Keeps the journal's file and WAL within the disk budget, and says what that cost."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agentd.events import store

MIN_BUDGET = 1 << 20
LOSS_KEY = "journal.trimmed"
SOURCE = "journal.budget"
_VACUUM_PAGES = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """How the budget is divided, in bytes.

    `wal_soft` starts checkpoints, `wal_hard` stops writing (a reader keeps the WAL from being
    used again), `file` is what the journal proper may take; `wal_hard` + `file` = budget.
    """

    file: int
    wal_soft: int
    wal_hard: int
    chunk: int
    transaction: int

    @classmethod
    def of(cls, budget: int) -> "Limits":
        """Divide a budget; raises ValueError below 1 MiB."""
        if budget < MIN_BUDGET:
            raise ValueError(f"the journal's budget must be at least {MIN_BUDGET} bytes")
        wal_hard = min(budget // 4, 256 << 20)
        file = budget - wal_hard
        return cls(
            file=file,
            wal_soft=min(wal_hard // 4, 16 << 20),
            wal_hard=wal_hard,
            chunk=min(file // 16, 2 << 20),
            transaction=min(wal_hard // 8, 1 << 20),
        )


class Retention:
    """Trims the oldest rows so that new ones find room."""

    def __init__(
        self, con: sqlite3.Connection, limits: Limits, sent_floor: Callable[[str], int] | None
    ) -> None:
        """`sent_floor`: journal id -> the highest events.id that the publisher has delivered."""
        self._con = con
        self._limits = limits
        self._sent_floor = sent_floor
        self.trimmed = 0
        self.unsent = bool(pending_loss(con))  # rows were lost and no loss event says so yet
        self.journal = store.journal_id(con)
        self._rows = 64  # rows in one chunk; follows what they turn out to take
        con.execute(f"PRAGMA journal_size_limit={limits.wal_soft}")

    def file_bytes(self) -> int:
        """Bytes in use in the file: pages that are not free."""
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        return pages * store.PAGE_SIZE

    def has_room(self, size: int) -> bool:
        """Whether rows of `size` bytes in all fit.

        Twice the size is kept free, because a large row may leave half a page empty.
        """
        needed = 2 * size + 16 * store.PAGE_SIZE
        return self.file_bytes() + needed <= self._limits.file

    def shrink(self) -> None:
        """Give some free pages back to the file system if the budget has become smaller."""
        if self._pragma("page_count") * store.PAGE_SIZE > self._limits.file:
            # Not execute(): it makes one step, which frees one page.
            self._con.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")

    def trim(self) -> bool:
        """Delete one chunk of the oldest rows, but never the newest row of all.

        Returns whether there was something to delete.
        """
        # The row that many from the start, or else the last but one: LIMIT 1 reads only keys.
        cut = "SELECT id FROM events WHERE id < (SELECT max(id) FROM events) ORDER BY id"
        found = self._con.execute(f"{cut} LIMIT 1 OFFSET ?", (self._rows,)).fetchone()
        found = found or self._con.execute(f"{cut} DESC LIMIT 1").fetchone()
        if found is None:
            return False
        upto = int(found[0])
        before = self.file_bytes()
        floor = upto if self._sent_floor is None else self._sent_floor(self.journal)
        with store.transaction(self._con) as con:
            lost = self._unsent(floor, upto) if floor < upto else []
            if lost:
                merged = orjson.dumps(_merge([*pending_loss(con), *lost])).decode()
                con.execute(store.SET_KEY, (LOSS_KEY, merged))
            deleted = con.execute("DELETE FROM events WHERE id <= ?", (upto,)).rowcount
        self.trimmed += deleted
        freed = max(before - self.file_bytes(), store.PAGE_SIZE)
        self._rows = max(16, min(4 * self._rows, self._rows * self._limits.chunk // freed))
        self.unsent = self.unsent or bool(lost)
        return True

    def _unsent(self, floor: int, upto: int) -> list[dict[str, Any]]:
        """What is lost with the rows above `floor` up to `upto`, by boot.

        Where a loss event is among them, what it told is lost again and so is told again.
        """
        told = self._con.execute(
            "SELECT body FROM events WHERE id > ? AND id <= ? AND class = 'loss'", (floor, upto)
        ).fetchall()
        lost: list[dict[str, Any]] = []
        for (body,) in told:
            loss = orjson.loads(body)["loss"]
            if loss["source"] == SOURCE:
                lost += loss["ranges"]
        found = self._con.execute(
            "SELECT boots.boot, min(seq), max(seq), count(*)"
            " FROM events JOIN boots ON n = events.boot WHERE id > ? AND id <= ?"
            " GROUP BY events.boot ORDER BY min(id)",
            (floor, upto),
        )
        names = ("boot", "first", "last", "count")
        lost += (dict(zip(names, row, strict=True)) for row in found)
        return lost

    def _pragma(self, name: str) -> int:
        return int(self._con.execute(f"PRAGMA {name}").fetchone()[0])


def pending_loss(con: sqlite3.Connection) -> list[dict[str, Any]]:
    """Ranges trimmed unsent for which no loss event has been written yet."""
    row = con.execute("SELECT value FROM kv WHERE key = ?", (LOSS_KEY,)).fetchone()
    return list(orjson.loads(row[0])) if row else []


def _merge(ranges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join ranges of the same boot that touch; boots stay in the order they come in."""
    by_boot: dict[str, list[dict[str, Any]]] = {}
    for part in ranges:
        by_boot.setdefault(part["boot"], []).append(part)
    merged: list[dict[str, Any]] = []
    for parts in by_boot.values():
        last: dict[str, Any] | None = None
        for part in sorted(parts, key=lambda part: int(part["first"])):
            if last is not None and part["first"] == last["last"] + 1:
                last["last"] = part["last"]
                last["count"] += part["count"]
            else:
                last = dict(part)
                merged.append(last)
    return merged


def wal_bytes(path: Path) -> int:
    """Size of the journal's WAL file."""
    try:
        return os.stat(f"{path}-wal").st_size  # noqa: PTH116 (hot path)
    except OSError:
        return 0
