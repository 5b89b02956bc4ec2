"""Inputs for the fuzz runs, and what must come out of them.

One input is one complete case: the bytes of one or two conversations, their cut into chunks and the
order in which the chunks arrive. Whatever is expected was known before any byte was written, or
comes from another path through the code; nothing is compared with itself.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agentd.mcp.protocol import Role

TRANSCRIPTS = Path(__file__).parent / "transcripts"

Expected = tuple[str, Any, str | None, str | None]
"""Kind, id, method and tool of an observation; of a response, those of the request it answers."""


def transcript_lines() -> list[tuple[Role, bytes]]:
    """Lines of the recorded sessions of real servers, each with its reader."""
    return [
        ("server" if line[:1] == b">" else "client", line[2:] + b"\n")
        for path in sorted(TRANSCRIPTS.glob("*.txt"))
        for line in path.read_bytes().splitlines()
    ]


@dataclass(slots=True)
class Exchange:
    """A recorded request and its response, their ids taken out."""

    method: str
    params: bytes
    reply: bytes


@dataclass(slots=True)
class Script:
    """Chunks of one conversation in causal order, and what must be observed."""

    chunks: list[tuple[Role, bytes]] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)


def exchanges() -> list[Exchange]:
    """All requests with their responses out of the recorded sessions, read by the stdlib parser."""
    found: list[Exchange] = []
    for path in sorted(TRANSCRIPTS.glob("*.txt")):
        waiting: dict[Any, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            message = json.loads(line[2:])
            if "method" in message and "id" in message and line[0] == ">":
                waiting[message["id"]] = message
            elif "id" in message and line[0] == "<" and message["id"] in waiting:
                request = waiting.pop(message["id"])
                member = "result" if "result" in message else "error"
                found.append(
                    Exchange(
                        request["method"],
                        _compact(request.get("params", {})),
                        b'"%s":%s' % (member.encode(), _compact(message[member])),
                    )
                )
    return found


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Conversations:
    """Well-formed conversations out of recorded exchanges, with known outcome."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._calls = [
            (each, b'"name":"%s"' % name.encode(), name)
            for each in exchanges()
            if each.method == "tools/call" and len(each.reply) < 600
            for name in [json.loads(each.params)["name"]]
        ]
        self._others = [
            each for each in exchanges() if each.method != "tools/call" and len(each.reply) < 3000
        ]

    def script(self, tag: str) -> Script:
        """Build one conversation; its tools are named after `tag`, its ids are those of others."""
        rng = self._random
        script = Script()
        count = 1 + int(rng.random() * 3)
        asked: list[tuple[bytes, Any, str, str | None, Exchange]] = []
        requests = bytearray()
        for number in range(count):
            raw_id, id_ = self._id(number)
            if rng.random() < 0.85:
                each, quoted, name = rng.choice(self._calls)
                tool: str | None = f"{tag}.{name}"
                params = each.params.replace(
                    quoted, b'"name":"%s.%s"' % (tag.encode(), name.encode())
                )
            else:
                each, tool, params = rng.choice(self._others), None, b""
                params = each.params
            requests += self._line(
                raw_id, b'"method":"%s","params":%s' % (each.method.encode(), params)
            )
            script.expected.append(("request", id_, each.method, tool))
            asked.append((raw_id, id_, each.method, tool, each))
        if rng.random() < 0.2:
            requests += (
                b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}\n'
                % (asked[0][0])
            )
            script.expected.append(("notification", None, "notifications/cancelled", None))
        if count > 1 and rng.random() < 0.5:
            asked.reverse()
        replies = bytearray()
        asks_back = rng.random() < 0.25
        if asks_back:
            replies += self._line(asked[0][0], b'"method":"roots/list"')
            script.expected.append(("request", asked[0][1], "roots/list", None))
        for raw_id, id_, method, tool, each in asked:
            replies += self._line(raw_id, each.reply)
            script.expected.append(("response", id_, method, tool))
        self._cut(script, "server", bytes(requests))
        self._cut(script, "client", bytes(replies))
        if asks_back:
            self._cut(script, "server", self._line(asked[0][0], b'"result":{"roots":[]}'))
            script.expected.append(("response", asked[0][1], "roots/list", None))
        return script

    def _id(self, number: int) -> tuple[bytes, Any]:
        """Pick an id that others use too: 1, "1" and 1 in another conversation are three."""
        draw = self._random.random()
        if draw < 0.5:
            return b"%d" % number, number
        if draw < 0.8:
            return b'"%d"' % number, str(number)
        return b'"long-%s-%d"' % (b"x" * 300, number), f"long-{'x' * 300}-{number}"

    def _line(self, raw_id: bytes, rest: bytes) -> bytes:
        draw = self._random.random()
        if draw < 0.4:
            return b'{"jsonrpc":"2.0","id":%s,%s}\n' % (raw_id, rest)
        if draw < 0.7:
            return b'{%s,"jsonrpc":"2.0","id":%s}\n' % (rest, raw_id)
        if draw < 0.8:
            return b' { %s , "id" : %s, "jsonrpc":"2.0" }\r\n' % (rest, raw_id)
        if draw < 0.9:
            return b'Server says: {not json\n{"jsonrpc":"2.0","id":%s,%s}\n' % (raw_id, rest)
        return b'\n\r\n{"id":%s,"jsonrpc":"2.0",%s}\n' % (raw_id, rest)

    def _cut(self, script: Script, to: Role, data: bytes) -> None:
        cuts = int(self._random.random() * 4)
        points = sorted(int(self._random.random() * len(data)) for _ in range(cuts))
        start = 0
        for point in (*points, len(data)):
            if point > start:
                script.chunks.append((to, data[start:point]))
                start = point


class Mutations:
    """Streams of one direction, damaged: bytes changed, put in, taken out, lines spliced."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._lines = [line for _, line in transcript_lines() if len(line) < 700]
        self._odd = (
            b"\n", b"\r", b"\r\n", b'"', b"\\", b"\\u", b"{", b"}", b"[", b"]", b",", b":", b"\x00",
            b"\xff", b"\xef\xbb\xbf", b"\xc3", b'"id":', b'"id":1,', b'"method":"tools/call",',
            b'"params":{', b"1e999", b"\\ud800", b"NaN", b"[" * 30, b" ", b"null", b"-",
            b'{"jsonrpc":"2.0","id":1,', b"\xe2\x80\xa8", b"true", b'"Method":"x",',
        )  # fmt: skip

    def stream(self) -> bytes:
        """Build one damaged stream of one to three lines."""
        rng = self._random
        data = bytearray(rng.choice(self._lines))
        if rng.random() < 0.5:
            data += rng.choice(self._lines)
        for _ in range(int(rng.random() * 4)):
            at = int(rng.random() * len(data))
            draw = rng.random()
            if draw < 0.5:
                data[at:at] = rng.choice(self._odd)
            elif draw < 0.7:
                del data[at : at + 1 + int(rng.random() * 8)]
            elif draw < 0.85:
                data[at] = int(rng.random() * 256)
            else:
                data[at:] = rng.choice(self._lines)
        return bytes(data)

    def cuts(self, data: bytes) -> list[bytes]:
        """Cut a stream into one to six chunks."""
        rng = self._random
        points = sorted(int(rng.random() * len(data)) for _ in range(1 + int(rng.random() * 5)))
        chunks: list[bytes] = []
        start = 0
        for point in (*points, len(data)):
            if point > start:
                chunks.append(data[start:point])
                start = point
        return chunks

    def split(self, size: int) -> int:
        """Pick a place to split a message of that size."""
        return int(self._random.random() * size)
