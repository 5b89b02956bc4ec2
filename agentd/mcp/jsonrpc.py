"""JSON-RPC messages from one line of an MCP stream.

What a server would execute must not be missed because its parser is more lenient than ours:
a line that orjson refuses gets the second look of `recovery`, and what only that look finds is
marked with the leniency it took. Known differentials: CVE-2026-27896 (case-insensitive keys in Go),
duplicate members, invalid UTF-8 and lone surrogates (Node and Python replace or accept them), depth
(orjson stops at 1024, V8 does not), bare carriage returns (Python's universal newlines).
"""

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from agentd.mcp import jsontext, recovery

Kind = Literal["request", "response", "notification", "invalid"]

MOST: Final = 1024
"""Messages in a line, at most: elements of a batch, or parts between bare carriage returns."""

OVER_LIMIT: Final = "over-limit"
"""The anomaly of a line that would take too long to read: nobody knows what it asks for."""

UNJUDGED: Final = frozenset({OVER_LIMIT, "too-deep", "trailing-data", "unreadable"})
"""Anomalies of messages of which more is there than is given here."""

_ID = rb'"id"\s*:\s*(-?[0-9]{1,18}|"[^"\\]{0,200}")\s*'
_FIRST_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + b"[,}]")
_LAST_ID = re.compile(rb",\s*" + _ID + rb"\}\s*\Z")
_ROOM_FOR_ID = 512
_TRACES = (
    b'"jsonrpc"',
    b'tools/call"',
    rb'tools\/call"',
    *(rb"\u00%d" % row for row in (4, 5, 6, 7)),
)

_TOP = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_PARAMS = frozenset({"name", "arguments", "uri", "_meta", "cursor"})
_SPELLING = {key.casefold(): key for key in _TOP}
_PARAMS_SPELLING = {
    key.casefold(): key
    for key in (*_PARAMS, "taskId", "ref", "argument", "requestId", "inputResponses", "message")
}


@dataclass(slots=True)
class Message:
    """One JSON-RPC message.

    `id` is the parsed value (None if absent); `params`, `result` and `error` likewise.
    `anomalies` name what a strict sender would not do: "batch", "bom", "stray-bytes", "bare-cr",
    "invalid-utf8", "lenient-json", "trailing-data", "too-deep", "duplicate-key",
    "case-variant-key", "not-jsonrpc", "invalid-id", "invalid-method", "mixed-members",
    "positional-params", "over-limit", and, from the stream, "multi-line", "no-newline" and
    "unreadable".
    """

    kind: Kind
    id: Any = None
    method: str | None = None
    params: Any = None
    result: Any = None
    error: Any = None
    anomalies: tuple[str, ...] = ()


def parse(raw: bytes) -> list[Message]:
    """Messages of one line (without its newline): one, or those of a batch. Raises nothing.

    Text that is not JSON, and JSON that is neither object nor array, gives []. Of a line with
    bare carriage returns, the parts between them are read as well as the whole. A line that would
    take too long gives one message, `over_limit`.
    """
    returns = raw.count(b"\r")
    if returns > MOST or jsontext.is_heavy(raw):
        return [over_limit(raw)]
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        recovered = recovery.recover(raw)
        if recovered and recovered.value is None:
            return [over_limit(raw)]
        found = _of(raw, recovered.value, recovered.anomalies) if recovered else []
    else:
        found = _of(raw, value, ())
    if returns:
        found += _between_returns(raw)
    return found


def over_limit(raw: bytes) -> Message:
    """What is told of a line that is not read.

    Its id, where that is the first member or the last, as clients write it; and "not-jsonrpc" if
    nothing in it looks like a message of MCP.
    """
    found = _FIRST_ID.match(raw[:_ROOM_FOR_ID]) or _LAST_ID.search(raw[-_ROOM_FOR_ID:])
    id_ = None
    if found:
        with contextlib.suppress(orjson.JSONDecodeError):
            id_ = orjson.loads(found[1])
    lower = raw.lower()
    shown = any(trace in lower for trace in _TRACES)
    return Message(
        "invalid", id_, anomalies=(OVER_LIMIT,) if shown else (OVER_LIMIT, "not-jsonrpc")
    )


def _between_returns(raw: bytes) -> list[Message]:
    parts = [part for part in raw.split(b"\r") if part.strip()]
    if len(parts) < 2:
        return []
    found = [message for part in parts for message in parse(part)]
    for message in found:
        message.anomalies = (*message.anomalies, "bare-cr")
    return found


def _of(raw: bytes, value: Any, anomalies: tuple[str, ...]) -> list[Message]:
    if type(value) is dict:
        return [_message(raw, value, anomalies)]
    if type(value) is not list:
        return []
    anomalies = (*anomalies, "batch")
    if not value:
        return [Message("invalid", anomalies=(*anomalies, "not-jsonrpc"))]
    if len(value) > MOST:
        return [over_limit(raw)]
    doubled = _has_duplicates(raw, value)
    if doubled:
        anomalies = (*anomalies, "duplicate-key")
    return [
        _message(None, item, anomalies)
        if type(item) is dict
        else Message("invalid", anomalies=(*anomalies, "not-jsonrpc"))
        for item in value
    ]


def _message(raw: bytes | None, value: dict[str, Any], anomalies: tuple[str, ...]) -> Message:
    """Classify one object; `raw` is None if duplicates were looked for already."""
    found: list[str] = []
    if value.get("jsonrpc") != "2.0":
        found.append("not-jsonrpc")
    if not value.keys() <= _TOP and _has_case_variant(value, _SPELLING):
        found.append("case-variant-key")
    id_ = value.get("id")
    method = value.get("method")
    if method is None:
        message = _response(value, id_, found)
    else:
        message = _call(raw, value, id_, method, found)
    message.anomalies = (*anomalies, *found) if found else anomalies
    return message


def _response(value: dict[str, Any], id_: Any, found: list[str]) -> Message:
    has_error = "error" in value
    if "result" not in value and not has_error:
        if "not-jsonrpc" not in found:
            found.append("not-jsonrpc")
        return Message("invalid", id_, params=value.get("params"))
    if has_error and "result" in value:
        found.append("mixed-members")
    if not (type(id_) is int or type(id_) is str or (id_ is None and has_error)):
        found.append("invalid-id")
    return Message("response", id_, None, None, value.get("result"), value.get("error"))


def _call(
    raw: bytes | None, value: dict[str, Any], id_: Any, method: Any, found: list[str]
) -> Message:
    if type(method) is not str:
        found.append("invalid-method")
        return Message("invalid", id_, None, value.get("params"))
    if "result" in value or "error" in value:
        found.append("mixed-members")
    params = value.get("params")
    if type(params) is dict:
        if not params.keys() <= _PARAMS and _has_case_variant(params, _PARAMS_SPELLING):
            found.append("case-variant-key")
        arguments = params.get("arguments")
        if type(arguments) is dict and len(arguments) > 1:
            folded = {key.casefold() for key in arguments}
            if len(folded) != len(arguments):
                found.append("case-variant-key")
    elif params is not None:
        found.append("positional-params")
    if raw is not None and _has_duplicates(raw, value):
        found.append("duplicate-key")
    if "id" not in value:
        return Message("notification", None, method, params)
    if type(id_) is not int and type(id_) is not str:
        found.append("invalid-id")
    return Message("request", id_, method, params)


def _has_case_variant(value: dict[str, Any], spelling: dict[str, str]) -> bool:
    """Whether a key equals a known one but for case (Unicode folding, as Go's does)."""
    return any(spelling.get(key.casefold(), key) != key for key in value)


def _has_duplicates(raw: bytes, value: Any) -> bool:
    """Whether an object anywhere in `raw` has a key twice.

    Text that is byte for byte what its own values are written as cannot have: most clients send
    that, and the test costs a quarter of a microsecond. The rest is parsed once more, with keys.
    """
    try:
        if orjson.dumps(value) == raw:
            return False
    except (TypeError, orjson.JSONEncodeError):
        pass
    doubled = False

    def pairs(items: list[tuple[str, Any]]) -> None:
        nonlocal doubled
        if len(items) > 1 and len({key for key, _ in items}) != len(items):
            doubled = True

    try:
        json.JSONDecoder(object_pairs_hook=pairs, parse_int=_nothing, strict=False).raw_decode(
            recovery.text_of(raw)
        )
    except (ValueError, RecursionError):
        return recovery.has_duplicate_members(raw)
    return doubled


def _nothing(_digits: str) -> None:
    """Stand in for an integer of any length: only keys matter here."""
