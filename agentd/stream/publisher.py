"""Carries the journal to JetStream: every event once, in order, however long NATS was away.

JetStream forgets message ids after its duplicate window, so they alone cannot prevent duplicates
after a long outage or a crash. The publisher remembers (state.py) a journal row and a stream
sequence below which everything is settled. Whenever an ack may have been lost it makes a new
connection and asks the stream which events of this host lie above that sequence: those are done,
the others are sent. Events go out in the journal's order on one connection, with up to `window`
unacked; the first refusal ends the connection, so that no later event overtakes a refused one by
more than a window.
"""

import asyncio
import logging
import os
import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace

import orjson

from agentd import paths
from agentd.stream.jetstream import Ack, Connection, public_name
from agentd.stream.library import errors
from agentd.stream.settings import Settings
from agentd.stream.source import Row, Source
from agentd.stream.state import StateDir
from agentd.stream.trouble import LoginRefused, StreamError, explain

log = logging.getLogger("agentd.publisher")

POLL_S = 0.2
SETTLE_S = 0.25
SAVE_S = 0.5
SAVE_ROWS = 4096
BACKOFF_S = (0.1, 10.0)
LOGIN_PATIENCE_S = 60.0
DRAIN_S = 2.0
_FETCH = 64
_LOOKUP = 100_000
_HEADER_ROOM = 512
_KEPT_WHEN_TOO_LARGE = (
    "v", "id", "seq", "boot", "host", "time", "class", "workload", "session", "posture", "decision",
)  # fmt: skip


class Restart(Exception):  # noqa: N818
    """The process has to be started again to go on: what it opened as root has changed."""


class Publisher:
    """One journal, one stream."""

    def __init__(
        self, settings: Settings, source: Source, state: StateDir, wake_fd: int | None = None
    ) -> None:
        """`wake_fd` becomes readable when the journal has new rows; without it, they are polled."""
        self._settings = settings
        self._source = source
        self._state = state
        self._wake_fd = wake_fd
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._acked = asyncio.Event()
        self._progress = self._saved = state.load()
        self._saved_at = 0.0
        self._in_flight: deque[int] = deque()  # row ids, in order
        self._stored: dict[int, int] = {}  # of those the acked ones -> stream sequence
        self._refusal: StreamError | None = None
        self._window = 1
        self._subjects: dict[tuple[str | None, str], str] = {}
        self._said = ""
        self._unsaved = False  # told once
        self._greeting = ""  # to say when the stream has taken an event, or nothing is left to send

    def stop(self) -> None:
        """End `run` soon: what is in flight gets two seconds to be acked."""
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Stream until `stop`; raises Restart."""
        loop = asyncio.get_running_loop()
        if self._wake_fd is not None:
            os.set_blocking(self._wake_fd, False)
            loop.add_reader(self._wake_fd, self._woken, self._wake_fd)
        attempt, pause = 0, BACKOFF_S[0]
        refused_since = 0.0
        while not self._stop.is_set():
            server = self._settings.servers[attempt % len(self._settings.servers)]
            attempt += 1
            floor = self._progress.floor
            try:
                await self._session(server)
            except (StreamError, errors.Error, OSError, TimeoutError, orjson.JSONDecodeError) as e:
                reason = explain(e, public_name(server))
                self._say(logging.WARNING, f"not streaming: {reason}")
                if not isinstance(reason, LoginRefused):
                    refused_since = 0.0
                elif not refused_since:
                    refused_since = time.monotonic()
                elif time.monotonic() - refused_since > LOGIN_PATIENCE_S:
                    raise Restart("reading the login again") from e
            if self._progress.floor != floor:
                pause, refused_since = BACKOFF_S[0], 0.0
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._stop.wait(), pause * (0.7 + secrets.randbelow(600) / 1000)
                )
            pause = min(2 * pause, BACKOFF_S[1])
        self._save()

    async def _session(self, server: str) -> None:
        """Connect, settle what is uncertain, stream until something fails."""
        self._refusal = None
        connection = Connection(self._settings, server, self._on_ack)
        try:
            await connection.open()
            done = await self._settle(connection)
            behind = self._source.behind(self._progress.floor)
            self._greeting = f"streaming to {connection.server}, was {behind} events behind"
            await self._pump(connection, done)
        finally:
            self._in_flight.clear()
            self._stored.clear()
            self._save()
            await connection.close()

    async def _settle(self, connection: Connection) -> dict[str, int]:
        """Bring `_progress` in line with stream and journal.

        Returns the events above the floor that are stored: event id -> stream sequence.
        """
        info = await connection.stream()
        before = self._progress
        if before.journal != self._source.journal:
            before = replace(before, journal=self._source.journal, floor=0, created="")
        same = (before.stream, before.created) == (self._settings.stream, info.created)
        if before.floor or before.created:
            # What a lost connection had sent may still be on its way through the server.
            await asyncio.sleep(SETTLE_S)
        if same and before.stream_seq <= info.last_seq:
            found = await connection.stored_after(before.stream_seq, _LOOKUP)
            if found is not None:
                self._progress = before
                return found
        # State or stream are new: the last event that is stored tells how far it goes.
        self._progress = replace(
            before, stream=self._settings.stream, created=info.created, stream_seq=0
        )
        last = await connection.last()
        if last is not None:
            row_id = self._source.find(last[0])
            floor = max(before.floor, row_id)
            self._progress = replace(self._progress, floor=floor, stream_seq=last[1])
        self._save()
        return {}

    async def _pump(self, connection: Connection, done: dict[str, int]) -> None:
        self._window = 1
        rows: deque[Row] = deque()
        position = self._progress.floor
        while not self._stop.is_set():
            if self._source.replaced():
                raise Restart("the journal was replaced")
            if not rows:
                rows.extend(self._source.after(position, _FETCH))
            while rows and len(self._in_flight) < self._window:
                row = rows.popleft()
                position = row.id
                event_id = row.event_id
                stored = done.pop(event_id, 0)
                self._in_flight.append(row.id)
                if stored:
                    self._settled(row.id, stored)
                else:
                    await self._send(connection, row, event_id)
            self._check(connection)
            if not rows and not self._in_flight:
                await self._idle(connection)
            elif len(self._in_flight) >= self._window or not rows:
                await self._wait_for_acks(connection)
            self._save_if_due()
        await self._drain(connection)

    async def _send(self, connection: Connection, row: Row, event_id: str) -> None:
        subject = self._subjects.get((row.workload, row.cls))
        if subject is None:
            workload = paths.token(row.workload or "")
            subject = f"{self._settings.prefix}.{self._settings.host}.{workload}.{row.cls}"
            self._subjects[row.workload, row.cls] = subject
        body = row.body
        room = connection.max_payload - _HEADER_ROOM
        if len(body) > room:
            body = _shortened(body, room)
        await connection.publish(row.id, subject, event_id, body)

    def _on_ack(self, ack: Ack) -> None:
        if ack.error is None:
            self._settled(ack.row_id, ack.stream_seq)
        else:
            self._refusal = self._refusal or ack.error
        self._acked.set()

    def _settled(self, row_id: int, stream_seq: int) -> None:
        """A row is stored: move the floor over all that are, up to the first hole."""
        self._stored[row_id] = stream_seq
        self._window = min(2 * self._window, self._settings.window)
        floor, highest = 0, self._progress.stream_seq
        while self._in_flight and self._in_flight[0] in self._stored:
            floor = self._in_flight.popleft()
            highest = max(highest, self._stored.pop(floor))
        if floor:
            self._greet()
            self._progress = replace(self._progress, floor=floor, stream_seq=highest)

    def _check(self, connection: Connection) -> None:
        if self._refusal is not None:
            raise self._refusal
        if connection.lost.done():
            connection.lost.result()

    async def _wait_for_acks(self, connection: Connection) -> None:
        self._acked.clear()
        await self._first(connection, self._acked, self._settings.ack_timeout)
        if not self._acked.is_set() and not connection.lost.done():
            raise StreamError(f"{connection.server} acknowledges nothing any more")

    async def _idle(self, connection: Connection) -> None:
        self._greet()
        self._save()
        self._wake.clear()
        if not self._source.after(self._progress.floor, 1):
            await self._first(connection, self._wake, 5 if self._wake_fd is not None else POLL_S)

    async def _first(self, connection: Connection, event: asyncio.Event, timeout: float) -> None:
        """Wait for the event, a lost connection or the time, whichever comes first."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait(
                (waiting, connection.lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()

    async def _drain(self, connection: Connection) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self._in_flight and not connection.lost.done() and time.monotonic() < deadline:
            self._acked.clear()
            await self._first(connection, self._acked, 0.1)

    def _woken(self, wake_fd: int) -> None:
        with suppress(BlockingIOError):
            if not os.read(wake_fd, 4096):  # the engine is gone: poll until it is back
                asyncio.get_running_loop().remove_reader(wake_fd)
                self._wake_fd = None
            self._wake.set()

    def _save_if_due(self) -> None:
        rows = 0 if self._unsaved else self._progress.floor - self._saved.floor
        if rows >= SAVE_ROWS or time.monotonic() - self._saved_at > SAVE_S:
            self._save()

    def _save(self) -> None:
        if self._progress != self._saved:
            try:
                self._state.save(self._progress)
                self._saved = self._progress
            except OSError as error:
                # Whoever starts from an old state asks the stream for the rest.
                if not self._unsaved:
                    log.warning("the state cannot be saved: %s; streaming goes on", error.strerror)
                self._unsaved = True
            else:
                self._unsaved = False
        self._saved_at = time.monotonic()

    def _greet(self) -> None:
        if self._greeting:
            self._say(logging.INFO, self._greeting)
            self._greeting = ""

    def _say(self, level: int, text: str) -> None:
        """Log a state once, when it begins."""
        if text != self._said:
            log.log(level, "%s", text)
            self._said = text


def _shortened(body: bytes, room: int) -> bytes:
    """What is left of an event that the server would refuse for its size: `room` bytes, if it can.

    Of a decision that is too large for that the verdict is left.
    """
    event = orjson.loads(body)
    kept = {key: event[key] for key in _KEPT_WHEN_TOO_LARGE if key in event}
    kept["truncated"] = {"bytes": len(body)}
    if "decision" in kept and len(orjson.dumps(kept)) > room:
        kept["decision"] = {"verdict": kept["decision"]["verdict"]}
    return orjson.dumps(kept)
