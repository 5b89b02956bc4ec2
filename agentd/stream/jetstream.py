"""One NATS connection and the few JetStream requests the publisher makes.

nats-py's own reconnecting is off: it replays what was buffered, and after a lost connection the
publisher first has to ask the stream what arrived. A connection that failed is thrown away.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import orjson

from agentd.stream.library import Client, Msg, RawCredentials, errors
from agentd.stream.settings import Settings
from agentd.stream.trouble import StreamError, refused

MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
_STATUS = "Status"
_API = "$JS.API"
_NOT_FOUND = {10059, 10014, 10037}
_PAGE = 500
_TIMEOUT = 5.0
CONNECT_S = 5
_CLOSE_S = 0.5


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as the server describes it."""

    created: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The server's answer to one published event; `error` is empty when it is stored."""

    row_id: int
    stream_seq: int
    error: StreamError | None


class _SecureClient(Client):
    """Never sends a login in the clear where TLS was asked for, whatever the server offers."""

    def _connect_command(self) -> bytes:
        if self.options.get("tls") and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        command: bytes = super()._connect_command()
        return command


class Connection:
    """A connection to one server, until it fails."""

    def __init__(self, settings: Settings, server: str, on_ack: Callable[[Ack], None]) -> None:
        """`on_ack` is called for every answer to `publish`."""
        self._settings = settings
        self._nats = _SecureClient()
        self._on_ack = on_ack
        self._inbox = ""
        self._max_stored = -1
        self.server = public_name(server)
        self._url = server
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect and log in; raises what nats-py, ssl or the socket raise."""
        settings = self._settings
        login = settings.login
        options: dict[str, Any] = {"signature_cb": None}
        if login.credentials:
            options["user_credentials"] = RawCredentials(login.credentials)
        elif login.nkey_seed:
            options["nkeys_seed_str"] = login.nkey_seed
        elif login.token:
            options["token"] = login.token
        elif login.user:
            options |= {"user": login.user, "password": login.password}
        if settings.tls is not None:
            options["tls"] = settings.tls
            if settings.tls_hostname:
                options["tls_hostname"] = settings.tls_hostname
        attempt = asyncio.ensure_future(
            self._nats.connect(
                self._url,
                name=f"agentd {settings.host}",
                allow_reconnect=False,
                connect_timeout=CONNECT_S,
                ping_interval=15,
                error_cb=self._error,
                closed_cb=self._closed,
                **options,
            )
        )
        # nats-py itself would try a server that refuses again and again, and only tell `error_cb`.
        await asyncio.wait((attempt, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not attempt.done():
            attempt.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await attempt
            self.lost.result()
        attempt.result()
        self._inbox = self._nats.new_inbox()
        await self._nats.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def close(self) -> None:
        """Close; nothing is sent any more."""
        self._fail(errors.ConnectionClosedError())
        # Marks a lost connection as seen, so that asyncio does not complain.
        self.lost.exception()
        # After a failed TLS handshake asyncio (3.11) never calls the transport closed.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nats.close(), _CLOSE_S)

    @property
    def max_payload(self) -> int:
        """Bytes that server and stream accept in one message, headers included."""
        limit: int = self._nats.max_payload
        return limit if self._max_stored < 0 else min(limit, self._max_stored)

    async def publish(self, row_id: int, subject: str, event_id: str, body: bytes) -> None:
        """Send one event; its ack arrives later. Raises nats.errors.Error or OSError."""
        headers = {MSG_ID: event_id, EXPECTED_STREAM: self._settings.stream}
        await self._nats.publish(subject, body, reply=f"{self._inbox}.{row_id}", headers=headers)

    async def stream(self) -> StreamInfo:
        """Look the stream up, make it if it is missing and that is allowed.

        Raises StreamError, nats.errors.Error.
        """
        name = self._settings.stream
        answer = await self._request(f"STREAM.INFO.{name}", {})
        error = answer.get("error")
        if error and error.get("err_code") in _NOT_FOUND:
            if not self._settings.create_stream:
                raise StreamError(f"there is no stream {name}, and create_stream is off")
            answer = await self._request(f"STREAM.CREATE.{name}", self._new_stream())
            error = answer.get("error")
        if error:
            raise refused(error, f"stream {name}")
        self._max_stored = int(answer["config"].get("max_msg_size", -1))
        return StreamInfo(created=str(answer["created"]), last_seq=int(answer["state"]["last_seq"]))

    async def last(self) -> tuple[str, int] | None:
        """Event id and stream sequence of this host's last stored event, None if there is none."""
        subject = f"STREAM.MSG.GET.{self._settings.stream}"
        answer = await self._request(subject, {"last_by_subj": self._settings.filter})
        error = answer.get("error")
        if error:
            if error.get("err_code") in _NOT_FOUND:
                return None
            raise refused(error, "looking up the last event")
        message = answer["message"]
        headers = base64.b64decode(message.get("hdrs", "")).decode("utf-8", "replace")
        for line in headers.split("\r\n"):
            key, _, value = line.partition(":")
            if key.strip().lower() == MSG_ID.lower():
                return value.strip(), int(message["seq"])
        return None

    async def stored_after(self, stream_seq: int, limit: int) -> dict[str, int] | None:
        """Which of this host's events are stored above `stream_seq`: event id -> stream sequence.

        Only headers travel. None if there are more than `limit`.
        """
        settings = self._settings
        name = f"agentd-{settings.host}-{secrets.token_hex(4)}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": stream_seq + 1,
            "ack_policy": "none",
            "filter_subject": settings.filter,
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30_000_000_000,
            "replay_policy": "instant",
        }
        place = f"{settings.stream}.{name}"
        answer = await self._request(
            f"CONSUMER.CREATE.{place}.{settings.filter}",
            {"stream_name": settings.stream, "config": config},
        )
        if answer.get("error"):
            raise refused(answer["error"], "looking up what is stored")
        pending = int(answer["num_pending"])
        if pending > limit:
            return None
        found: dict[str, int] = {}
        inbox = self._nats.new_inbox()
        messages = await self._nats.subscribe(inbox)
        try:
            while pending:
                wanted = orjson.dumps({"batch": _PAGE, "expires": 2_000_000_000})
                await self._nats.publish(f"{_API}.CONSUMER.MSG.NEXT.{place}", wanted, reply=inbox)
                for _ in range(min(_PAGE, pending)):
                    message = await messages.next_msg(_TIMEOUT)
                    headers = message.headers or {}
                    if headers.get(_STATUS):
                        raise StreamError("looking up what is stored: the server gave up")
                    pending -= 1
                    found[headers.get(MSG_ID, "")] = _stream_seq(message.reply)
        finally:
            await messages.unsubscribe()
        return found

    def _new_stream(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "name": settings.stream,
            "description": "agentd events",
            "subjects": [f"{settings.prefix}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": settings.replicas,
            "max_age": int(settings.max_age * 1e9),
            "max_bytes": settings.max_bytes or -1,
            "allow_direct": True,
        }

    async def _request(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._nats.request(f"{_API}.{subject}", orjson.dumps(body), timeout=_TIMEOUT)
        found: dict[str, Any] = orjson.loads(answer.data)
        return found

    async def _answered(self, message: Msg) -> None:
        row_id = int(message.subject.rpartition(".")[2])
        error: StreamError | None = None
        stream_seq = 0
        if message.headers and message.headers.get(_STATUS):
            error = StreamError(
                "no stream takes the events: JetStream or the stream is not ready, or no stream has"
                f" the subjects {self._settings.prefix}.>"
            )
        else:
            answer = orjson.loads(message.data)
            if answer.get("error"):
                error = refused(answer["error"], f"stream {self._settings.stream} refused an event")
            else:
                stream_seq = int(answer["seq"])
        self._on_ack(Ack(row_id, stream_seq, error))

    async def _error(self, error: Exception) -> None:
        self._fail(error)

    async def _closed(self) -> None:
        self._fail(self._nats.last_error or errors.ConnectionClosedError())

    def _fail(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)


def public_name(server: str) -> str:
    """A server's URL without the login that may be in it."""
    url = urlparse(server if "://" in server else f"nats://{server}")
    return f"{url.hostname}:{url.port or 4222}"


def _stream_seq(reply: str) -> int:
    """Stream sequence in an ack subject: nine tokens, or twelve with domain and account."""
    tokens = reply.split(".")
    return int(tokens[5] if len(tokens) < 11 else tokens[7])
