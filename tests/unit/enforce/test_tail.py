import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.enforce.rewrite import Rewrite
from agentd.enforce.tail import deny_frame, deny_tail
from agentd.mcp.stream import MessageStream

RULE, REASON = "deny-write", "read only session"
LONG = {
    "jsonrpc": "2.0",
    "id": 41,
    "method": "tools/call",
    "params": {
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
        "name": "write_file",
        "arguments": {
            "path": "/srv/caf\u00e9/\U0001f600",
            "deep": [[{"a": [True, False, None, -1.5e3, {"b": '\\"\n'}]}], []],
            "content": "x" * 300,
        },
    },
}


def check(line: bytes, split: int, done: Rewrite, original: dict[str, Any]) -> None:
    head, tail = line[:split], line[split:]
    assert len(done.data) == len(tail)
    assert done.data.count(b"\n") <= tail.count(b"\n")
    assert b"\r" not in done.data
    text = head + done.data
    try:
        read = json.loads(text)
    except ValueError:
        assert done.level == "broken"
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(text)
        return
    assert orjson.loads(text).get("method") == read.get("method")
    assert done.level in ("reason", "shortened", "method", "error")
    assert read["id"] == original["id"]
    assert read["jsonrpc"] == "2.0"
    if done.level == "method":
        assert read["method"] == "x" or read["method"].startswith("denied-by-agentd")
    elif done.level != "error":
        assert read["method"] == "tools/call"
        assert read["params"]["name"].startswith("denied-by-agentd")
        assert "arguments" not in read["params"]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", " : ")])
@pytest.mark.parametrize("reverse", [True, False])
def test_every_split(ascii_only: bool, separators: tuple[str, str], reverse: bool) -> None:
    message = dict(reversed(LONG.items())) if reverse else LONG
    text = json.dumps(message, ensure_ascii=ascii_only, separators=separators)
    line = text.encode() + b"\n"
    levels = []
    for split in range(len(line) - 1):
        done = deny_tail(line[:split], line[split:], RULE, REASON)
        check(line, split, done, LONG)
        levels.append(done.level)
    if not reverse:
        body = levels[: len(line) - 350]
        assert set(body) == {"reason"}
    assert levels.count("broken") < 70


def test_the_name_says_rule_and_reason() -> None:
    line = json.dumps(LONG).encode() + b"\n"
    done = deny_tail(line[:200], line[200:], RULE, REASON)
    read = json.loads(line[:200] + done.data)
    assert (done.level, read["params"]) == (
        "reason",
        {
            "name": "denied-by-agentd: deny-write: read only session",
            "_meta": LONG["params"]["_meta"],  # type: ignore[index]
        },
    )


def test_reader_that_takes_the_first_of_two_members() -> None:
    line = json.dumps(LONG).encode() + b"\n"
    for split in range(1, len(line) - 1):
        done = deny_tail(line[:split], line[split:], RULE, REASON, override=False)
        assert done.level == "broken"
        with pytest.raises(json.JSONDecodeError):
            json.loads(line[:split] + done.data)


def test_head_that_is_complete_already() -> None:
    line = json.dumps(LONG).encode()
    assert deny_tail(line, b"  \r\n", RULE, REASON) == Rewrite(
        b"  \r\n".replace(b" ", b"!"), "broken"
    )
    assert deny_tail(line, b"\n", RULE, REASON) == Rewrite(b"!", "broken")
    assert deny_tail(line, b"", RULE, REASON) == Rewrite(b"", "none")


def test_head_of_nothing_is_a_whole_line() -> None:
    line = json.dumps(LONG).encode() + b"\n"
    done = deny_tail(b" ", line, RULE, REASON)
    assert (done.level, json.loads(done.data)["id"]) == ("reason", 41)


def test_batches_and_broken_heads_stay_unreadable() -> None:
    line = b"[" + json.dumps(LONG).encode() + b"]\n"
    for split in range(1, len(line) - 1):
        done = deny_tail(line[:split], line[split:], RULE, REASON)
        assert done.level == "broken"
        with pytest.raises(json.JSONDecodeError):
            json.loads(line[:split] + done.data)
    assert deny_tail(b"\xef\xbb\xbf{", b'"a":1}\n', RULE, REASON).data == b'"!"!"!\n'


def test_dense_message_is_broken_without_being_walked() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":['
    line += b"[]," * 300_000 + b"1]}}}\n"
    done = deny_tail(line[:-100], line[-100:], RULE, REASON)
    assert done.level == "broken"
    assert len(done.data) == 100
    with pytest.raises(json.JSONDecodeError):
        json.loads(line[:-100] + done.data)


@pytest.mark.parametrize(
    "head", [b'{"a":"x', b'{"a":"x\\', b'{"a":"\\u1', b'{"a":', b'{"a":1', b"{"]
)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_broken_stays_broken_whatever_follows(head: bytes, size: int) -> None:
    done = deny_tail(head, b" " * size + b"\n", RULE, REASON, override=False)
    for rest in (b'"}', b"}", b"1}", b'"":1}', b":1}", b'!"}', b'n"}', b'000"}'):
        with pytest.raises(json.JSONDecodeError):
            json.loads(head + done.data + rest)


def test_frame_is_refused_where_it_lies() -> None:
    line = json.dumps(LONG).encode() + b"\n"
    other = b'{"jsonrpc":"2.0","id":9,"method":"ping"}\n'
    for data, cut in ((other + line + other, 0), (line + other, 100), (other + line, 50)):
        stream = MessageStream()
        before = stream.feed(data[:cut])
        chunk = bytearray(data[cut:])
        for found in stream.feed(bytes(chunk)):
            if found.messages[0].method == "tools/call":
                at, done = deny_frame(found.frame, bytes(chunk), RULE, REASON)
                assert done.level == "reason"
                chunk[at : at + len(done.data)] = done.data
        assert len(chunk) == len(data) - cut
        after = MessageStream().feed(data[:cut] + bytes(chunk))
        assert len(after) + len(before) >= data.count(b"\n")
        read = {
            message.id: (message.method, message.params)
            for each in after
            for message in each.messages
        }
        assert read[41][1]["name"] == f"denied-by-agentd: {RULE}: {REASON}"
        assert read[9] == ("ping", None)


def test_response() -> None:
    message = {
        "jsonrpc": "2.0",
        "id": 2,
        "result": {"content": [{"type": "text", "text": "s" * 200}]},
    }
    line = json.dumps(message).encode() + b"\n"
    for split in range(len(line) - 1):
        check(line, split, deny_tail(line[:split], line[split:], RULE, REASON), message)
    read = json.loads(line[:90] + deny_tail(line[:90], line[90:], RULE, REASON).data)
    assert read["result"]["isError"]
    assert read["result"]["content"][0]["text"].startswith("denied-by-agentd: deny-write")


def test_client_side_request_gets_an_unknown_method() -> None:
    message = {"jsonrpc": "2.0", "id": 2, "method": "roots/list", "params": {"x": "y" * 200}}
    line = json.dumps(message).encode() + b"\n"
    done = deny_tail(line[:80], line[80:], RULE, REASON)
    assert (done.level, json.loads(line[:80] + done.data)["method"][:16]) == (
        "method",
        "denied-by-agentd",
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers() | st.text(max_size=10),
    st.dictionaries(
        st.sampled_from(["path", "id", "method", "\u00e9\U0001f600"]), JSON, max_size=4
    ),
    st.permutations(["jsonrpc", "id", "method", "params"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (" , ", " : ")]),
)
def test_any_call_at_every_split(
    id_: Any,
    arguments: dict[str, Any],
    order: list[str],
    ascii_only: bool,
    separators: tuple[str, str],
) -> None:
    members = {
        "jsonrpc": "2.0",
        "id": id_,
        "method": "tools/call",
        "params": {"name": "write_file", "arguments": arguments},
    }
    message = {key: members[key] for key in order}
    text = json.dumps(message, ensure_ascii=ascii_only, separators=separators)
    line = text.encode() + b"\n"
    for split in range(len(line) - 1):
        check(line, split, deny_tail(line[:split], line[split:], RULE, REASON), message)
