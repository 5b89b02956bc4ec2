import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.enforce.rewrite import blank, deny_line, whole_refusal

RULE, REASON = "deny-delete", "this agent may not delete files"
NAME = "denied-by-agentd: deny-delete: this agent may not delete files"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
    "progressToken": 3,
}


def call(id_: Any = 1, arguments: Any = None, **more: Any) -> dict[str, Any]:
    params = {"name": "delete_file", "arguments": arguments or {"path": "/srv/" + "x" * 80}, **more}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def test_refused_call_names_rule_and_reason_and_keeps_the_id() -> None:
    line = compact(call("abc")) + b"\r\n"
    done = deny_line(line, RULE, REASON)
    assert done.level == "reason"
    assert len(done.data) == len(line)
    assert done.data.endswith(b"}\r\n")
    assert json.loads(done.data) == {
        "jsonrpc": "2.0",
        "id": "abc",
        "method": "tools/call",
        "params": {"name": NAME},
    }


@pytest.mark.parametrize(
    "raw_id",
    [b"123456789012345678901234567890", b"1.50", b"-0", b'"\\u00e9\\n"', b'"' + b"i" * 3000 + b'"'],
)
def test_id_stays_as_on_the_wire(raw_id: bytes) -> None:
    line = compact(call("ID")).replace(b'"ID"', raw_id)
    done = deny_line(line, RULE, REASON)
    assert done.level == "reason"
    assert b'"id":' + raw_id + b"," in done.data
    assert len(done.data) == len(line)


def test_meta_stays() -> None:
    done = deny_line(compact(call(_meta=META)), RULE, REASON)
    assert (done.level, json.loads(done.data)["params"]) == (
        "reason",
        {"name": NAME, "_meta": META},
    )


def test_meta_shrinks_to_what_servers_demand_before_the_reason_is_cut() -> None:
    line = compact(call(arguments={"p": 1}, _meta=META))
    done = deny_line(line, RULE, REASON)
    params = json.loads(done.data)["params"]
    assert done.level == "reason"
    assert sorted(params["_meta"]) == [
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/protocolVersion",
    ]


def test_old_meta_goes_before_the_reason_is_cut() -> None:
    line = compact(call(arguments={"p": "x" * 15}, _meta={"progressToken": 1}))
    done = deny_line(line, RULE, REASON)
    assert (done.level, json.loads(done.data)["params"]) == ("reason", {"name": NAME})


def test_short_calls_degrade_in_steps() -> None:
    levels = []
    for size in (20, 10, 0):
        message = call(arguments={"p": "x" * size})
        message["params"]["name"] = "rm"
        done = deny_line(compact(message), RULE, REASON)
        levels.append(done.level)
        assert json.loads(done.data)["id"] == 1
    tiny = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
    done = deny_line(tiny, RULE, REASON)
    levels.append(done.level)
    assert levels == ["shortened", "shortened", "shortened", "method"]
    assert json.loads(done.data)["method"].startswith("denied-by-agentd")
    assert deny_line(b'{"jsonrpc":"2.0","id":1,"method":"y"}', RULE, REASON).data == (
        b'{"jsonrpc":"2.0","id":1,"method":"x"}'
    )
    assert deny_line(b'{"method":"y"}', RULE, REASON).data == b'{"method":"x"}'
    assert deny_line(b'{"id":1}', RULE, REASON).data == b" " * 8


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("prompts/get", {"name": "p", "arguments": {"a": "x" * 80}}, {"name": NAME}),
        (
            "resources/read",
            {"uri": "file:///" + "x" * 90},
            {"uri": "denied-by-agentd:deny-delete:this%20agent%20may%20not%20delete%20files"},
        ),
    ],
)
def test_other_requests_keep_their_method_where_it_can_say_why(
    method: str, params: dict[str, Any], expected: dict[str, Any]
) -> None:
    line = compact({"jsonrpc": "2.0", "id": 5, "method": method, "params": params})
    done = deny_line(line, RULE, REASON)
    assert (done.level, json.loads(done.data)["params"]) == ("reason", expected)
    assert json.loads(done.data)["method"] == method


def test_request_without_a_name_gets_a_method_that_does_not_exist() -> None:
    line = compact(
        {"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {"m": "x" * 90}}
    )
    done = deny_line(line, RULE, REASON)
    assert (done.level, json.loads(done.data)) == (
        "method",
        {"jsonrpc": "2.0", "id": 5, "method": NAME},
    )


def test_call_without_id_and_notification_stay_without_answer() -> None:
    message = call()
    del message["id"]
    done = deny_line(compact(message), RULE, REASON)
    assert json.loads(done.data) == {"jsonrpc": "2.0", "method": NAME}


def test_response_becomes_an_error() -> None:
    line = compact({"jsonrpc": "2.0", "id": 5, "result": {"tools": ["x" * 200]}})
    done = deny_line(line, RULE, REASON)
    assert done.level == "error"
    assert json.loads(done.data)["error"] == {"code": -32000, "message": NAME}
    short = deny_line(
        b'{"jsonrpc":"2.0","id":5,"result":{"tools":["abcdefghijklm"]}}', RULE, REASON
    )
    assert json.loads(short.data)["error"] == {"code": -32000, "message": ""}
    tiny = deny_line(b'{"jsonrpc":"2.0","id":5,"result":{"tools":[]}}', RULE, REASON)
    assert json.loads(tiny.data)["error"] == {}


def test_result_of_a_tool_stays_one_that_the_model_reads() -> None:
    content = [{"type": "text", "text": "x" * 200}]
    line = compact({"jsonrpc": "2.0", "id": 5, "result": {"content": content}})
    done = deny_line(line, RULE, REASON)
    assert (done.level, json.loads(done.data)) == (
        "error",
        {
            "jsonrpc": "2.0",
            "id": 5,
            "result": {"isError": True, "content": [{"type": "text", "text": NAME}]},
        },
    )
    for size in range(100):
        content[0]["text"] = "x" * size
        line = compact({"jsonrpc": "2.0", "id": 5, "result": {"content": content}})
        answer = json.loads(deny_line(line, RULE, REASON).data)
        assert answer["id"] == 5
        assert "error" in answer or answer["result"]["content"][0]["text"] == NAME


def test_whole_refusal_has_the_room_it_takes() -> None:
    bodies: list[dict[str, Any]] = [
        {"result": {"tools": []}},
        {"result": {"content": []}},
        {"error": {}},
    ]
    for body in bodies:
        line = compact({"jsonrpc": "2.0", "id": 5, **body}) + b"\n"
        whole = whole_refusal(line, RULE, REASON)
        assert json.loads(whole)["id"] == 5
        assert NAME in whole.decode()
        assert whole.endswith(b"}\n")
        assert b"isError" in whole or "content" not in str(body)
    assert whole_refusal(compact(call()), RULE, REASON) == b""
    assert whole_refusal(b"[]", RULE, REASON) == b""


def test_reason_in_any_script_is_ascii_and_cut_between_characters() -> None:
    for size in range(200, 0, -1):
        message = call(arguments={"p": "x" * size})
        done = deny_line(
            compact(message), 'r"\\', "d\u00e9fendu \U0001f512\U0001f512\n\ud800 tab\t"
        )
        assert done.data.isascii()
        name = json.loads(done.data).get("params", {}).get("name", "denied-by-agentd")
        assert name.startswith("denied-by-agentd")
        name.encode()


def test_batch_refuses_the_given_elements_only() -> None:
    other = b'{"jsonrpc": "2.0", "id":2, "method":"ping"}'
    line = b"[ " + compact(call(1)) + b" , " + other + b", " + compact(call(3)) + b"]\n"
    done = deny_line(line, RULE, REASON, indexes=[2])
    assert done.level == "reason"
    assert len(done.data) == len(line)
    first, second, third = json.loads(done.data)
    assert first == call(1)
    assert (third["id"], third["params"]["name"]) == (3, NAME)
    assert other in done.data
    assert second["method"] == "ping"
    everything = json.loads(deny_line(line, RULE, REASON).data)
    assert [each["id"] for each in everything] == [1, 2, 3]
    assert "tools/call" not in [each["method"] for each in everything[1:2]]
    assert deny_line(line, RULE, REASON, indexes=[9]).level == "blank"


def test_what_lenient_parsers_would_execute_is_refused_too() -> None:
    usual = compact(call())
    for line in (
        b"\xef\xbb\xbf" + usual,
        b"junk\r" + usual,
        usual + usual,
        usual.replace(b'"id":1', b'"id":1,"Method":"tools/call","method":"ping"'),
        usual.replace(b"/srv", b"\xff\\ud800"),
        json.dumps(call(), indent=2).encode(),
        usual.replace(b'"id":1', b'"id":{"a":\r' + usual + b"\r}"),
    ):
        done = deny_line(line, RULE, REASON)
        assert len(done.data) == len(line)
        assert b"delete_file" not in done.data.replace(b'"id":{"a": ' + usual, b"")
        assert b"\r" not in done.data
        assert b"\n" not in done.data


def test_duplicate_id_the_last_counts() -> None:
    line = compact(call()).replace(b'"method"', b'"i\\u0064":2,"method"')
    assert json.loads(deny_line(line, RULE, REASON).data)["id"] == 2


def test_dense_message_keeps_its_id_and_meta() -> None:
    line = compact(call(7, _meta=META)).replace(
        b'"path":', b'"d":[' + b"[[[[]]]]," * 70_000 + b'1],"path":'
    )
    done = deny_line(line, RULE, REASON)
    read = json.loads(done.data)
    assert len(done.data) == len(line)
    assert (read["id"], read["params"], done.level) == (7, {"name": NAME, "_meta": META}, "reason")
    assert deny_line(b"[" + line + b"]", RULE, REASON).level == "blank"


def test_noise_becomes_blank() -> None:
    assert deny_line(b"hello\n", RULE, REASON).data == b"     \n"
    assert deny_line(b"", RULE, REASON).data == b""
    assert blank(3) == b"   "


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
REQUESTS = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "id": st.integers() | st.text(max_size=12),
        "method": st.sampled_from(
            ["tools/call", "prompts/get", "resources/read", "sampling/createMessage", "a"]
        ),
        "params": st.dictionaries(
            st.sampled_from(["name", "uri", "arguments", "_meta", "x"]), JSON, max_size=5
        ),
    }
)


@given(
    REQUESTS,
    st.booleans(),
    st.permutations(["jsonrpc", "id", "method", "params"]),
    st.text(),
    st.text(),
)
def test_any_request(
    request_: dict[str, Any], spaced: bool, order: list[str], rule: str, reason: str
) -> None:
    request_ = {key: request_[key] for key in order}
    text = json.dumps(request_, ensure_ascii=spaced, separators=None if spaced else (",", ":"))
    line = text.encode() + b"\n"
    done = deny_line(line, rule, reason)
    assert len(done.data) == len(line)
    assert done.data.count(b"\n") == 1
    answer = json.loads(done.data)
    assert answer["id"] == request_["id"]
    assert answer["jsonrpc"] == "2.0"
    if done.level == "method":
        assert answer["method"] == "x" or answer["method"].startswith("denied-by-agentd")
    else:
        assert done.level in ("reason", "shortened")
        params = answer["params"]
        assert params.get("name", params.get("uri")).startswith("denied-by-agentd")
        assert "arguments" not in params
