import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.mcp.jsonrpc import Message, parse

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"p":1}}}'
DATA = json.loads(
    (Path(__file__).parent / "data" / "examples-2026-07-28.json").read_text(encoding="utf-8")
)


def only(raw: bytes) -> Message:
    (message,) = parse(raw)
    return message


def test_request() -> None:
    message = only(CALL)
    assert (message.kind, message.id, message.method) == ("request", 1, "tools/call")
    assert message.params == {"name": "rm", "arguments": {"p": 1}}
    assert message.anomalies == ()


def test_params_before_method_spaces_and_string_id() -> None:
    message = only(
        b'  { "params" : {"name":"rm"} , "id" : "1", "method":"tools/call","jsonrpc":"2.0"} '
    )
    assert (message.kind, message.id, message.anomalies) == ("request", "1", ())


def test_response_error_and_notification() -> None:
    assert only(b'{"jsonrpc":"2.0","id":1,"result":{}}').kind == "response"
    failed = only(b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}')
    assert (failed.kind, failed.error["code"], failed.anomalies) == ("response", -1, ())
    assert only(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}').anomalies == ()
    assert only(b'{"jsonrpc":"2.0","method":"notifications/initialized"}').kind == "notification"


def test_batch() -> None:
    call, noise, answer = parse(b"[" + CALL + b',3,{"jsonrpc":"2.0","id":2,"result":1}]')
    assert (call.kind, call.anomalies) == ("request", ("batch",))
    assert (noise.kind, noise.anomalies) == ("invalid", ("batch", "not-jsonrpc"))
    assert answer.kind == "response"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"[INFO] x",
        b"12",
        b'"s"',
        b"null",
        b"{",
        b"{bad}",
        b"\xff\xfe{",
        b"[1,",
        b"\x00",
    ],
)
def test_noise_gives_nothing(raw: bytes) -> None:
    assert parse(raw) == []


@pytest.mark.parametrize(
    ("raw", "anomaly"),
    [
        (CALL.replace(b'"id":1', b'"id":1,"id":2'), "duplicate-key"),
        (CALL.replace(b'"method"', b'"m\\u0065thod":"ping","method"'), "duplicate-key"),
        (CALL.replace(b'{"name":"rm"', b'{"name":"ls","name":"rm"'), "duplicate-key"),
        (CALL.replace(b'{"p":1}', b'{"p":1,"p":2}'), "duplicate-key"),
        (CALL.replace(b'"id":1', b'"id":1,"Method":"x"'), "case-variant-key"),
        (CALL.replace(b'"name"', b'"NAME":"ls","name"'), "case-variant-key"),
        (CALL.replace(b'"params"', '"param\u017f":{},"params"'.encode()), "case-variant-key"),
        (CALL.replace(b'{"p":1}', b'{"p":1,"P":2}'), "case-variant-key"),
        (b"\xef\xbb\xbf" + CALL, "bom"),
        (b" \xef\xbb\xbf" + CALL, "bom"),
        (b"\x0c" + CALL, "stray-bytes"),
        ("\u00a0".encode() + CALL, "stray-bytes"),
        (CALL + b"\x00", "stray-bytes"),
        (CALL + b"garbage", "trailing-data"),
        (CALL + CALL, "trailing-data"),
        (CALL.replace(b'"rm"', b'"rm","x":"\xff"'), "invalid-utf8"),
        (CALL.replace(b'"rm"', b'"rm","x":"\\ud800"'), "lenient-json"),
        (CALL.replace(b'{"p":1}', b'{"p":NaN}'), "lenient-json"),
        (CALL.replace(b'{"p":1}', b'{"p":1e999}'), "lenient-json"),
        (CALL.replace(b'{"p":1}', b'{"p":' + b"9" * 5000 + b"}"), "lenient-json"),
        (CALL.replace(b'{"p":1}', b'{"p":"\t"}'), "lenient-json"),
        (CALL.replace(b'{"p":1}', b'{"p":' + b"[" * 9000 + b"]" * 9000 + b"}"), "too-deep"),
        (b"junk\r" + CALL, "bare-cr"),
        (b'{"jsonrpc":"2.0",}\r' + CALL, "bare-cr"),
        (CALL.replace(b'"jsonrpc":"2.0",', b""), "not-jsonrpc"),
        (CALL.replace(b'"id":1', b'"id":null'), "invalid-id"),
        (CALL.replace(b'"id":1', b'"id":{"a":1}'), "invalid-id"),
        (CALL.replace(b'"id":1', b'"id":1,"result":{}'), "mixed-members"),
    ],
)
def test_what_some_server_would_execute_is_seen_and_marked(raw: bytes, anomaly: str) -> None:
    message = parse(raw)[-1] if anomaly == "bare-cr" else only(raw)
    assert anomaly in message.anomalies
    assert (message.method, message.params["name"]) == ("tools/call", "rm")


def test_deep_batch_is_seen() -> None:
    deep = CALL.replace(b'{"p":1}', b"[" * 9000 + b"]" * 9000)
    (message,) = parse(b"[" + deep + b"]")
    assert (message.method, message.params["name"]) == ("tools/call", "rm")
    assert {"batch", "too-deep"} <= set(message.anomalies)


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("beside", [b"", b',"b":' + b"[" * 20_000 + b"]" * 20_000])
def test_no_value_is_deeper_than_the_strict_parser_allows(
    opened: bytes, closed: bytes, beside: bytes
) -> None:
    """Python 3.12 reads ten times as deep, which kills what converts a value recursively."""
    deep = opened * 1_030 + b"1" + closed * 1_030
    message = only(CALL.replace(b'{"p":1}}', deep + beside + b"}"))
    assert (message.method, message.params["name"]) == ("tools/call", "rm")
    assert message.anomalies == ("too-deep",)
    assert message.params["arguments"] is None


def test_batches_in_batches_are_no_deeper_than_the_interpreter_goes() -> None:
    message = only(b"[" * 1_500 + b"]" * 1_500)
    assert (message.kind, message.anomalies) == ("invalid", ("too-deep", "batch", "not-jsonrpc"))


_MANY = 600_000


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b"1,\r" * _MANY + b"1]",
        b"[" + b"1, " * _MANY + b"1]",
        b"[" + b"{}," * (_MANY // 2) + b"{}]",
        b"[" + b"[[[]]]," * (_MANY // 4) + b"1]",
        b"{" + b",".join(b'"%d":NaN' % number for number in range(_MANY // 3)) + b"}",
        b"[" + rb'"\"\\",' * (_MANY // 2) + b"1]",
        b"[" * 300_000 + b"]" * 300_000,
    ],
    ids=["returns", "numbers", "objects", "arrays", "members", "strings", "deep"],
)
def test_what_would_take_too_long_is_told_and_not_read(value: bytes) -> None:
    """Whoever waits for a verdict waits for this line, too."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    raw = CALL.replace(b'{"p":1}', value)
    sys.setprofile(count)
    try:
        messages = parse(raw)
    finally:
        sys.setprofile(None)
    assert [(each.kind, each.id, each.anomalies) for each in messages] == [
        ("invalid", 1, ("over-limit",))
    ]
    assert steps < 200


@pytest.mark.parametrize(
    "raw", [b"\r".join([CALL] * 1_026), b"[" + b",".join([CALL] * 1_025) + b"]"]
)
def test_no_more_messages_in_a_line_than_can_be_judged(raw: bytes) -> None:
    assert only(raw).anomalies == ("over-limit",)


def test_long_texts_are_no_burden() -> None:
    """A table of several MiB has as many commas and quotes as a hostile message has values."""
    text = 'a,"b",{c:1},\\\n' * 400_000
    message = only(CALL.replace(b'{"p":1}', json.dumps({"p": text}).encode()))
    assert message.params["arguments"] == {"p": text}
    assert message.anomalies == ()


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((b'{"id":"a","method":"x","params":', b"}"), "a"),
        ((b'{"method":"x","params":', b',"jsonrpc":"2.0","id":7}'), 7),
        ((b'{"method":"x","params":', b"}"), None),
        ((b'{"method":"x","params":', rb',"p":",\"id\":7}"}'), None),
    ],
)
def test_id_of_what_is_not_read(ends: tuple[bytes, bytes], found: Any) -> None:
    assert only((b"[" + b"1," * _MANY + b"1]").join(ends)).id == found


def test_not_read_and_nothing_like_mcp() -> None:
    assert only(b"[" + b"1," * _MANY + b"1]").anomalies == ("over-limit", "not-jsonrpc")


def test_call_hidden_behind_carriage_returns_in_another_message() -> None:
    raw = b'{"jsonrpc":"2.0","id":9,"method":"ping","params":{"_meta":\r' + CALL + b"\r}}"
    assert [(message.method, message.id) for message in parse(raw)] == [
        ("ping", 9),
        ("tools/call", 1),
    ]


def test_positional_params_and_bad_method() -> None:
    assert only(b'{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}').anomalies == (
        "positional-params",
    )
    assert only(b'{"jsonrpc":"2.0","id":1,"method":3}').anomalies == ("invalid-method",)
    assert only(b'{"level":"info"}').anomalies == ("not-jsonrpc",)


def test_task_id_is_no_case_variant() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"a","requestId":1}}'
    assert only(raw).anomalies == ()


@pytest.mark.parametrize("name", sorted(DATA["examples"]))
def test_official_examples_are_clean(name: str) -> None:
    example: dict[str, Any] = DATA["examples"][name]
    expected = (
        "response"
        if "result" in example or "error" in example
        else ("request" if "id" in example else "notification")
    )
    for text in (json.dumps(example), json.dumps(example, separators=(",", ":"))):
        message = only(text.encode())
        assert (message.kind, message.anomalies) == (expected, ())


@given(st.binary(max_size=200))
def test_never_raises_on_bytes(raw: bytes) -> None:
    parse(raw)


@given(st.integers(0, len(CALL)), st.binary(max_size=4), st.integers(0, 6))
def test_never_raises_on_damaged_calls(at: int, put: bytes, cut: int) -> None:
    parse(CALL[:at] + put + CALL[at + cut :])
