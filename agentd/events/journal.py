"""The journal: every event on disk, numbered without gaps, within a disk budget.

One writer (the engine). `append` only buffers; `flush` writes. A number belongs to an event once it
is on disk: after `kill -9` the sequence goes on from what the file holds.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentd.events import retention, store
from agentd.events.checkpoint import Checkpointer
from agentd.events.lateness import Lateness
from agentd.events.model import EventWriter
from agentd.events.retention import Limits, Retention

BUFFER_BYTES = 32 << 20
_ROW_OVERHEAD = 200
_ROWS_AT_ONCE = 16
_ROWS_COMMITTED = 64
_FEW_ROWS = 1024
_RETRY_NS = 200_000_000
_MAX_WORKLOADS = 64


class FlushStatus(StrEnum):
    """What `flush` did."""

    OK = "ok"
    BLOCKED = "blocked"  # a reader keeps the WAL from being used again; events stay buffered
    FAILED = "failed"  # disk full, I/O error, locked by somebody; events stay buffered


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counters since this journal was opened; sizes in bytes."""

    seq: int
    written: int
    trimmed: int
    dropped: int
    buffered: int
    buffered_bytes: int
    file_bytes: int
    wal_bytes: int
    status: FlushStatus
    error: str


class Journal:
    """The journal of one host, opened by its one writer."""

    def __init__(
        self,
        path: Path,
        budget_bytes: int,
        host: str,
        boot_id: str,
        *,
        sent_floor: Callable[[str], int] | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        begun: bool = False,
    ) -> None:
        """Open or make the journal at `path`.

        `host` is a NATS token; `sent_floor` gives, for the journal's id, the highest events.id that
        the publisher has delivered (None: nothing is streamed, so trimming loses nothing; see
        stream.state.sent_floor); `buffer_bytes` bounds what is kept in memory while the disk
        refuses; `begun` says that a journal has given numbers in this boot. A file that is not a
        journal any more is set aside and a new one begun, now and later. Raises OSError or
        sqlite3.Error if that cannot be done now, and ValueError for a budget under 1 MiB.
        """
        self.path = path
        self.host = host
        self.boot = boot_id
        self._limits = Limits.of(budget_bytes)
        self._floor = sent_floor
        self._writer = EventWriter(host, boot_id)
        self.between: Callable[[], None] = lambda: None
        """Called now and then while much is written; it may append, and must not raise."""
        self._buffer: list[store.Row] = []
        self.decided = False
        """Whether a decision waits in memory."""
        self._buffered = 0
        self._buffer_limit = buffer_bytes
        self._dropped: dict[str, int] = {}
        self._dropped_total = 0
        self._written = 0
        self._notices: list[bytes] = []
        self._status = FlushStatus.OK
        self._id = self._seq = self._boot = 0
        self._error = ""
        self._retry_at = 0
        self._since_checkpoint = 0
        self._fresh: dict[str, Any] = {}  # why a new file was begun, until that is written
        self._is_open = False
        self._open_or_replace(begun=begun)

    def append(  # noqa: PLR0917 (hot path, positional)
        self,
        cls: str,
        time_ns: int,
        workload: str | None,
        session: str | None,
        parts: Mapping[str, Any],
        verdict: str | None = None,
        rules: Iterable[str] = (),
    ) -> bytes:
        """Number, build and buffer one event; returns its JSON bytes.

        `time_ns` is nanoseconds since the epoch. Returns b"" when the disk has refused for so long
        that the buffer is full: the event is counted and has no number. A quarter of the buffer is
        kept for events with a verdict.
        """
        limit = self._buffer_limit if verdict else self._buffer_limit * 3 // 4
        if self._buffered > limit:
            self._drop(workload)
            return b""
        seq = self._seq + 1
        body = self._writer.build(cls, time_ns, workload, session, seq, parts)
        if len(body) > self._limits.chunk:
            self._drop(workload)
            return b""
        self._seq = seq
        self._id += 1
        names = " ".join(rules) if rules else None
        self.decided |= verdict is not None
        self._buffer.append(
            (self._id, self._boot, seq, time_ns, cls, workload, session, verdict, names, body)
        )
        self._buffered += len(body) + _ROW_OVERHEAD
        return body

    @property
    def pending(self) -> bool:
        """Whether events wait in memory for the next flush."""
        return bool(self._buffer)

    def flush(self) -> FlushStatus:
        """Write what is buffered; never raises for what the disk does.

        After a failure the next attempt is made no sooner than 200 ms later.
        """
        self.decided = False
        if self._buffer or self._dropped or self._fresh or self._retention.unsent:
            if self._retry_at and time.monotonic_ns() < self._retry_at:
                return self._status
            try:
                self._status = self._flush_or_go_on()
            except (sqlite3.Error, OSError) as error:
                self._status, self._error = FlushStatus.FAILED, str(error)
            if self._status is FlushStatus.OK:
                self._retry_at, self._error = 0, ""
            else:
                self._retry_at = time.monotonic_ns() + _RETRY_NS
        return self._status

    @property
    def journal_id(self) -> str:
        """The name of this journal file, by which the publisher's state refers to it."""
        return self._retention.journal

    def sync(self) -> FlushStatus:
        """Flush, and return only when the disk has it (fdatasync of the WAL)."""
        if self.flush() is FlushStatus.OK:
            try:
                wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(wal)
                finally:
                    os.close(wal)
            except OSError as error:
                self._status, self._error = FlushStatus.FAILED, str(error)
        return self._status

    def take_notices(self) -> list[bytes]:
        """Events that the journal itself wrote (class loss) since the last call, for watchers."""
        notices, self._notices = self._notices, []
        return notices

    def stats(self) -> JournalStats:
        """Counters and sizes now."""
        try:
            file_bytes = self.path.stat().st_size
        except OSError:
            file_bytes = 0
        return JournalStats(
            seq=self._seq,
            written=self._written,
            trimmed=self._retention.trimmed,
            dropped=self._dropped_total,
            buffered=len(self._buffer),
            buffered_bytes=self._buffered,
            file_bytes=file_bytes,
            wal_bytes=retention.wal_bytes(self.path),
            status=self._status,
            error=self._error,
        )

    def close(self) -> None:
        """Flush and close; the last connection copies the WAL back."""
        self._retry_at = 0
        self.flush()
        self._close_file()

    def _open_or_replace(self, *, begun: bool) -> None:
        """How far a journal that is gone had numbered this boot is unknown.

        Microseconds since boot are above it, as no host writes a million events a second: no
        number is used twice, and the gap, with the loss event, tells a consumer.
        """
        above = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        try:
            if self._open(above if begun else 0) and begun:
                why = "it was removed or moved, or nothing of this boot was ever written"
                self._fresh = _begun_anew("journal.missing", why)
        except sqlite3.DatabaseError as error:
            if not store.is_corrupt(error):
                raise
            self._fresh = _begun_anew("journal.broken", str(error), store.set_aside(self.path))
            self._open(above)

    def _open(self, first_seq: int) -> bool:
        """Open the file; returns whether it has no event of this boot: then `first_seq` counts."""
        con = store.open_writer(self.path)
        try:
            find_boot = "SELECT n FROM boots WHERE boot = ?"
            found = con.execute(find_boot, (self.boot,)).fetchone()
            if found is None:
                con.execute("INSERT INTO boots(boot) VALUES(?)", (self.boot,))
            (boot,) = found or con.execute(find_boot, (self.boot,)).fetchone()
            last = con.execute("SELECT id, boot, seq FROM events ORDER BY id DESC LIMIT 1")
            row_id, row_boot, seq = last.fetchone() or (0, 0, 0)
            keep = Retention(con, self._limits, self._floor)
            self._lateness = Lateness(con)
            self._file = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            con.close()
            raise
        self._con = con
        self._retention = keep
        self._boot = boot
        same_boot = row_boot == boot
        self._id = row_id if same_boot or not row_id else row_id + store.ID_JUMP
        self._seq = seq if same_boot else first_seq
        self._checkpointer = Checkpointer(self.path)
        self._is_open = True
        return not same_boot

    def _abandon(self, source: str, why: str) -> None:
        """The file is of no use any more; what is at its place is kept beside it."""
        self._close_file()
        self._fresh = _begun_anew(source, why, store.set_aside(self.path))

    def _close_file(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._checkpointer.close()
        with contextlib.suppress(sqlite3.Error):  # readers may keep this from being the last
            self._con.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._con.close()
        if self._is_gone():
            with contextlib.suppress(OSError):
                store.retire(Path(f"/proc/self/fd/{self._file}"))
        os.close(self._file)

    def _is_gone(self) -> bool:
        """Whether the file is no more where it was opened."""
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.lstat())
        except OSError:
            return True

    def _flush_or_go_on(self) -> FlushStatus:
        """Write what is buffered, into a new file where the old one is damaged or gone."""
        if self._is_open and (self._is_gone() or not Path(f"{self.path}-wal").exists()):
            self._abandon("journal.missing", "it or its WAL was removed or moved")
        try:
            return self._flush()
        except sqlite3.DatabaseError as error:
            if not store.is_corrupt(error):
                raise
            self._abandon("journal.broken", str(error))
            return self._flush()

    def _go_on(self) -> None:
        """In a new file: numbers and ids go on, and what waits in memory goes there."""
        row_id, seq = self._id, self._seq
        self._open(0)
        self._id, self._seq = row_id, seq
        self._buffer = [(row[0], self._boot, *row[2:]) for row in self._buffer]

    def _flush(self) -> FlushStatus:
        if not self._is_open:
            self._go_on()
        while self._buffer:
            if not self._wal_has_room():
                return FlushStatus.BLOCKED
            count, size = self._batch()
            if not self._retention.has_room(size) and self._retention.trim():
                continue
            self._retention.shrink()
            self._write(self._buffer[:count])
            del self._buffer[:count]
            self._buffered -= size
            self._since_checkpoint += size
            self.between()
        if self._dropped:
            by_workload = {name or "_": count for name, count in self._dropped.items()}
            count = sum(self._dropped.values())
            loss = {"count": count, "source": "journal.buffer", "workloads": by_workload}
            self._write_loss(loss)
            self._dropped.clear()
        if self._fresh:
            self._write_loss(self._fresh)
            self._fresh = {}
        if self._retention.unsent:
            ranges = retention.pending_loss(self._con)
            count = sum(part["count"] for part in ranges)
            self._write_loss({"count": count, "source": retention.SOURCE, "ranges": ranges})
            self._retention.unsent = False
        if self._since_checkpoint > self._limits.wal_soft:
            self._since_checkpoint = 0
            self._checkpointer.request()
        return FlushStatus.OK

    def _batch(self) -> tuple[int, int]:
        """How many buffered rows go into one transaction, and their size.

        A few go into several, so that `between` comes soon; what a burst leaves goes faster in one.
        """
        rows = self._buffer
        if len(rows) > _FEW_ROWS and self._buffered <= self._limits.transaction:
            return len(rows), self._buffered
        most = len(rows) if len(rows) > _FEW_ROWS else _ROWS_COMMITTED
        count = size = 0
        while count < min(len(rows), most) and size <= self._limits.transaction:
            size += len(rows[count][-1]) + _ROW_OVERHEAD
            count += 1
        return count, size

    def _write(self, rows: list[store.Row], *, clear_loss: bool = False) -> None:
        with store.transaction(self._con) as con:
            con.executemany(store.INSERT, rows[:_ROWS_AT_ONCE])
            for at in range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE):
                self.between()
                con.executemany(store.INSERT, rows[at : at + _ROWS_AT_ONCE])
            if clear_loss:
                con.execute("DELETE FROM kv WHERE key = ?", (retention.LOSS_KEY,))
            late = self._lateness.note(con, rows)
        self._lateness.committed(late)
        self._written += len(rows)

    def _write_loss(self, loss: dict[str, Any]) -> None:
        """Write a loss event by itself; it has a number only if that succeeds.

        The note of trimmed ranges goes in the same transaction, so that a crash neither forgets
        them nor tells them twice.
        """
        time_ns, seq = time.time_ns(), self._seq + 1
        body = self._writer.build("loss", time_ns, None, None, seq, {"loss": loss})
        row = (self._id + 1, self._boot, seq, time_ns, "loss", None, None, None, None, body)
        self._write([row], clear_loss=loss["source"] == retention.SOURCE)
        self._seq, self._id = seq, row[0]
        self._notices.append(body)

    def _wal_has_room(self) -> bool:
        """Keep the WAL bounded: False while a reader prevents that it is used again."""
        size = retention.wal_bytes(self.path)
        if size > self._limits.wal_hard:
            with self._checkpointer.lock:
                busy = self._con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                self._error = "a reader of the journal keeps its WAL from being used again"
                return False
        elif size > 2 * self._limits.wal_soft:
            # Written faster than the checkpoint thread copies: pay for it here.
            self._con.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return True

    def _drop(self, workload: str | None) -> None:
        name = workload or ""
        if name not in self._dropped and len(self._dropped) >= _MAX_WORKLOADS:
            name = ""
        self._dropped[name] = self._dropped.get(name, 0) + 1
        self._dropped_total += 1


def _begun_anew(source: str, why: str, kept: Path | None = None) -> dict[str, Any]:
    """The loss that a new file begins with; how much it is, is not known."""
    loss = {"count": 0, "source": source, "error": why}
    return loss | {"kept": str(kept)} if kept else loss
