"""Turns an event's parts into the bytes that are stored, watched and streamed.

`envelope.py` describes the same envelope as types. This module is the hot path: the fields that
every event has are formatted here, the parts are serialised by orjson.
"""

import time
from collections.abc import Mapping
from typing import Any

import orjson

from agentd import paths

VERSION = 1
_MAX_DEPTH = 64
_NS = 1_000_000_000
_INTEGERS = range(-(1 << 63), 1 << 64)


class EventWriter:
    """Builds the JSON bytes of one host's events in one boot."""

    __slots__ = ("_head", "_middle", "_second", "_second_text", "_sources", "boot", "host")

    def __init__(self, host: str, boot: str) -> None:
        """`host` is a NATS token (paths.host_name), `boot` the kernel's boot id."""
        self.host = host
        self.boot = boot
        self._head = f'{{"v":{VERSION},"id":"{host}:{paths.boot_short(boot)}:'
        self._middle = f',"boot":"{boot}","host":"{host}","time":"'
        self._second = -1
        self._second_text = ""
        self._sources: dict[tuple[str, str | None, str | None], str] = {}

    def build(  # noqa: PLR0917 (hot path, positional)
        self,
        cls: str,
        time_ns: int,
        workload: str | None,
        session: str | None,
        seq: int,
        parts: Mapping[str, Any],
    ) -> bytes:
        """Build one event.

        `time_ns` is nanoseconds since the Unix epoch, `seq` the number in this boot; `parts` holds
        the other keys of the envelope, with orjson.Fragment values where they were serialised
        before (see `fragment`). Never raises for what hostile input put into `parts`.
        """
        second, ns = divmod(time_ns, _NS)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        source = self._sources.get((cls, workload, session))
        if source is None:
            source = self._source(cls, workload, session)
        head = f'{self._head}{seq}","seq":{seq}{self._middle}{self._second_text}.{ns:09}Z{source}'
        if not parts:
            return head.encode() + b"}"
        return head.encode() + b"," + dumps(parts)[1:]

    def _source(self, cls: str, workload: str | None, session: str | None) -> str:
        """What follows the time: class, workload and session repeat, so they are kept."""
        text = f'","class":"{cls}"'
        if workload is not None:
            text += f',"workload":{dumps(workload).decode()}'
        if session is not None:
            text += f',"session":{dumps(session).decode()}'
        if len(self._sources) >= 4096:
            self._sources.clear()
        self._sources[cls, workload, session] = text
        return text


def event_id(host: str, boot: str, seq: int) -> str:
    """The event's id, which is also its Nats-Msg-Id."""
    return f"{host}:{paths.boot_short(boot)}:{seq}"


def fragment(part: Mapping[str, Any]) -> orjson.Fragment:
    """Serialise a part that many events share (a process, a session's task) once, for reuse."""
    return orjson.Fragment(dumps(part))


def dumps(value: Any) -> bytes:
    """Serialise `value` to JSON; never raises for what came from hostile input.

    What JSON cannot carry is made plain: lone surrogates (undecodable file names) become "?",
    nesting deeper than 64 levels "...", integers beyond 64 bits and other objects their `str()`.
    """
    try:
        return orjson.dumps(value)
    except TypeError:  # orjson.JSONEncodeError is one
        return orjson.dumps(_plain(value, 0))


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return "..."
    if value is None or isinstance(value, bool | float | orjson.Fragment):
        return value
    if isinstance(value, int):
        return value if value in _INTEGERS else str(value)
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    is_bytes = isinstance(value, bytes | bytearray | memoryview)
    return bytes(value).decode("utf-8", "replace") if is_bytes else _text(str(value))


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")
