"""A second, lenient look at lines a strict JSON parser refuses.

Servers are written in many languages; what any of their parsers might execute must be seen.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from agentd.mcp import jsontext

DEPTH: Final = 1024
"""Arrays and objects within one another, at most, in a value: as many as orjson reads."""

_STRAY = "".join(map(chr, range(33))) + "\x7f\x85\xa0\u200b\u2028\u2029\u2060\ufeff"
_BOM = b"\xef\xbb\xbf"
_STARTS = re.compile(rb"[\x00-\x20\x7f-\xbf\xc2\xe2\xef]*[{\[]")


@dataclass(slots=True)
class Recovered:
    """A value that a lenient parser makes of the line, and the leniency it takes.

    The value is None where it would take too long to find.
    """

    value: Any
    anomalies: tuple[str, ...]


def text_of(raw: bytes) -> str:
    """Text of a line, without byte order mark, white space and control characters around it."""
    return raw.decode("utf-8", "replace").strip(_STRAY)


def recover(raw: bytes) -> Recovered | None:
    """Read `raw` as the most lenient parser in use would; None if even that one refuses."""
    if not _STARTS.match(raw):
        return None
    text = text_of(raw)
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return None
    except RecursionError:
        if jsontext.is_dense(raw):
            return Recovered(None, ("too-deep",))
        shallow = _shallow(raw, _begin(raw))
        return Recovered(shallow, ("too-deep",)) if shallow is not None else None
    return Recovered(value, _leniencies(raw, end != len(text)))


def _leniencies(raw: bytes, trailing: bool) -> tuple[str, ...]:
    anomalies: list[str] = []
    core = raw.strip(b" \t\r\n")
    if core.startswith(_BOM):
        anomalies.append("bom")
        core = core[3:].lstrip(b" \t\r\n")
    if trailing:
        anomalies.append("trailing-data")
    elif core[:1] not in (b"{", b"[") or core[-1:] not in (b"}", b"]"):
        anomalies.append("stray-bytes")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        anomalies.append("invalid-utf8")
    return tuple(anomalies) or ("lenient-json",)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 400 else float(digits)


class _Decoder(json.JSONDecoder):
    """One that is no deeper than `DEPTH` in any interpreter; raises RecursionError beyond it.

    CPython's own limit is about 1,000 in 3.11 and 10,000 in 3.12.
    """

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        value, end = super().raw_decode(s, idx)
        level = [value]
        for _ in range(DEPTH):
            level = [inner for outer in level for inner in _nested(outer)]
            if not level:
                return value, end
        raise RecursionError(f"nested deeper than {DEPTH}")


def _nested(value: Any) -> list[Any]:
    """The arrays and objects that an array or object has as its own members."""
    members = value.values() if type(value) is dict else value if type(value) is list else ()
    return [member for member in members if type(member) in (dict, list)]


_DECODER = _Decoder(parse_int=_integer, strict=False)


def _begin(raw: bytes) -> int:
    found = _STARTS.match(raw)
    return found.end() - 1 if found else 0


def _shallow(raw: bytes, at: int) -> Any:
    """Value too deep for any parser here: members are read one by one, what is deep is None."""
    if raw[at] == 0x5B:
        starts = [start for start, _ in jsontext.elements(raw, at)]
        return [_shallow(raw, start) if raw[start] == 0x7B else None for start in starts]
    if raw[at] != 0x7B or jsontext.skip_value(raw, at) < 0:
        return None
    value = _members(raw, at)
    for member in jsontext.members(raw, at):
        if _key(member.key) == "params" and raw[member.start : member.start + 1] == b"{":
            value["params"] = _members(raw, member.start)
    return value


def _members(raw: bytes, at: int) -> dict[str, Any]:
    return {
        _key(member.key): _value(raw[member.start : member.end])
        for member in jsontext.members(raw, at)
        if member.end >= 0
    }


def _value(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _key(raw: bytes) -> str:
    value = _value(raw)
    return value if isinstance(value, str) else ""


def has_duplicate_members(raw: bytes) -> bool:
    """Whether the object that begins in `raw`, or its params, has a key twice."""
    if jsontext.is_dense(raw):
        return False
    begin = _begin(raw)
    found = jsontext.members(raw, begin)
    keys = [_key(member.key) for member in found]
    if len(set(keys)) != len(keys):
        return True
    inner = [
        _key(item.key)
        for member, key in zip(found, keys, strict=True)
        if key == "params" and raw[member.start : member.start + 1] == b"{"
        for item in jsontext.members(raw, member.start)
    ]
    return len(set(inner)) != len(inner)
