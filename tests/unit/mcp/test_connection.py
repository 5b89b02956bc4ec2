from typing import Any

import orjson

from agentd.mcp.connection import Conversation, Observation
from agentd.mcp.jsonrpc import parse
from agentd.mcp.protocol import Role


def tell(talk: Conversation, to: Role, t_us: int = 0, **members: Any) -> Observation:
    (message,) = parse(orjson.dumps({"jsonrpc": "2.0", **members}))
    return talk.observe(message, to, t_us * 1000)


def test_answer_carries_the_call_and_its_latency() -> None:
    talk = Conversation()
    call = tell(
        talk, "server", 10, id=1, method="tools/call", params={"name": "ls", "arguments": {}}
    )
    assert (call.tool, call.arguments, call.direction) == ("ls", {}, "client-to-server")
    answer = tell(talk, "client", 35, id=1, result={"content": [], "isError": True})
    assert (answer.method, answer.tool, answer.latency_us) == ("tools/call", "ls", 25.0)
    assert (answer.is_error, answer.error, answer.anomalies) == (True, None, ())
    assert talk.pending("server") == 0


def test_error_answer() -> None:
    talk = Conversation()
    tell(talk, "server", id="a", method="prompts/get", params={"name": "p"})
    answer = tell(talk, "client", id="a", error={"code": -32602, "message": "no"})
    assert (answer.is_error, answer.error, answer.subject) == (
        True,
        {"code": -32602, "message": "no"},
        "p",
    )
    assert answer.tool is None


def test_number_and_string_ids_are_two() -> None:
    talk = Conversation()
    tell(talk, "server", id=1, method="tools/call", params={"name": "number"})
    tell(talk, "server", id="1", method="tools/call", params={"name": "string"})
    assert tell(talk, "client", id="1", result={}).tool == "string"
    assert tell(talk, "client", id=1, result={}).tool == "number"


def test_float_id_is_echoed_by_javascript_as_integer() -> None:
    talk = Conversation()
    tell(talk, "server", id=1.0, method="tools/call", params={"name": "x"})
    assert tell(talk, "client", id=1, result={}).tool == "x"


def test_both_sides_may_use_the_same_id() -> None:
    talk = Conversation()
    tell(talk, "server", id=1, method="tools/call", params={"name": "x"})
    tell(talk, "client", id=1, method="sampling/createMessage", params={})
    assert tell(talk, "server", id=1, result={"role": "a"}).method == "sampling/createMessage"
    assert tell(talk, "client", id=1, result={}).method == "tools/call"


def test_cancel_and_late_answer() -> None:
    talk = Conversation()
    tell(talk, "server", id=7, method="tools/call", params={"name": "slow"})
    cancel = tell(talk, "server", method="notifications/cancelled", params={"requestId": 7})
    assert cancel.cancelled == (7,)
    assert cancel.request is not None
    assert cancel.request.cancelled
    late = tell(talk, "client", id=7, result={})
    assert (late.tool, late.anomalies) == ("slow", ())
    other_way = tell(talk, "client", method="notifications/cancelled", params={"requestId": 8})
    assert (other_way.cancelled, other_way.request) == ((8,), None)


def test_unmatched_and_reused_ids() -> None:
    talk = Conversation()
    assert "unmatched-response" in tell(talk, "client", id=3, result={}).anomalies
    tell(talk, "server", id=3, method="ping")
    assert "id-reused" in tell(talk, "server", id=3, method="ping").anomalies


def test_pending_is_bounded_and_long_ids_are_not_kept_as_keys() -> None:
    talk = Conversation(most_pending=3)
    for number in range(5):
        tell(talk, "server", id=f"{number}" * 1000, method="tools/list")
    assert talk.pending("server") == 3
    assert tell(talk, "client", id="0" * 1000, result={}).request is None
    assert tell(talk, "client", id="4" * 1000, result={}).method == "tools/list"


def test_initialize_teaches_version_and_names() -> None:
    talk = Conversation()
    seen = tell(
        talk,
        "server",
        id=0,
        method="initialize",
        params={"protocolVersion": "2025-11-25", "clientInfo": {"name": "claude"}},
    )
    assert (seen.protocol_version, talk.client_name) == ("2025-11-25", "claude")
    answer = tell(
        talk,
        "client",
        id=0,
        result={"protocolVersion": "2025-06-18", "serverInfo": {"name": "fs", "version": "1"}},
    )
    assert (answer.protocol_version, talk.server_name, talk.server_version) == (
        "2025-06-18",
        "fs",
        "1",
    )
    assert tell(talk, "server", id=1, method="tools/list").protocol_version == "2025-06-18"


def test_meta_teaches_version_without_initialize() -> None:
    talk = Conversation()
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c"},
    }
    seen = tell(talk, "server", id=1, method="server/discover", params={"_meta": meta})
    assert (seen.protocol_version, seen.anomalies, talk.client_name) == ("2026-07-28", (), "c")
    tell(
        talk,
        "client",
        id=1,
        result={"_meta": {"io.modelcontextprotocol/serverInfo": {"name": "s"}}},
    )
    assert talk.server_name == "s"
    fallback = tell(
        talk, "server", id=2, method="initialize", params={"protocolVersion": "2025-11-25"}
    )
    assert (fallback.protocol_version, fallback.anomalies) == ("2025-11-25", ())


def test_what_the_version_forbids() -> None:
    talk = Conversation()
    talk.protocol_version = "2026-07-28"
    assert "wrong-version" in tell(talk, "server", id=1, method="ping").anomalies
    assert "wrong-version" in tell(talk, "client", id=1, method="sampling/createMessage").anomalies
    assert "wrong-direction" in tell(talk, "client", id=2, method="tools/call").anomalies
    assert (
        "call-without-id"
        in tell(talk, "server", method="tools/call", params={"name": "x"}).anomalies
    )
    assert "invalid-params" in tell(talk, "server", id=4, method="tools/call", params={}).anomalies
    assert tell(talk, "server", id=5, method="vendor/own").anomalies == ()


def test_batch_is_lawful_in_one_version_only() -> None:
    talk = Conversation()
    (message,) = parse(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]')
    talk.protocol_version = "2025-03-26"
    assert talk.observe(message, "server", 0).anomalies == ()
    talk.protocol_version = "2025-06-18"
    assert talk.observe(message, "server", 0).anomalies == ("batch", "id-reused")


def tools(talk: Conversation, *definitions: dict[str, Any]) -> Observation:
    tell(talk, "server", id=1, method="tools/list")
    return tell(talk, "client", id=1, result={"tools": list(definitions)})


def test_a_tool_that_changes_after_its_first_listing() -> None:
    talk = Conversation()
    tool = {"name": "a", "description": "reads", "inputSchema": {"type": "object"}}
    assert tools(talk, tool, {"name": "b"}).anomalies == ()
    assert tools(talk, {"name": "b"}, tool | {"_meta": {"x": 1}}).anomalies == ()
    changed = tools(talk, tool | {"description": "reads and sends"})
    assert (changed.anomalies, changed.changed_tools) == (("tool-changed",), ("a",))
    assert tools(talk, tool | {"description": "reads and sends"}).anomalies == ()
    assert tools(talk, {"name": "b"}, {"name": "b"}).anomalies == ("tool-listed-twice",)
    assert sorted(talk.tools.digests) == ["a", "b"]


def test_request_hidden_in_a_result_and_its_retry() -> None:
    talk = Conversation()
    tell(talk, "server", id=1, method="tools/call", params={"name": "x"})
    asked = tell(
        talk,
        "client",
        id=1,
        result={
            "resultType": "input_required",
            "inputRequests": {"k": {"method": "elicitation/create", "params": {"message": "?"}}},
        },
    )
    assert [each.method for each in asked.hidden] == ["elicitation/create"]
    again = tell(
        talk, "server", id=2, method="tools/call", params={"name": "x", "inputResponses": {"k": {}}}
    )
    assert again.retried


def test_an_id_deeper_than_python_prints() -> None:
    call = b'{"jsonrpc":"2.0","method":"tools/call","id":%s}' % (b"[" * 1_015 + b"]" * 1_015)
    seen = Conversation().observe(parse(call)[0], "server", 1)
    assert seen.method == "tools/call"


def test_odd_shapes_do_not_raise() -> None:
    talk = Conversation()
    for raw in (
        b'{"jsonrpc":"2.0","id":[1],"method":"initialize","params":{"protocolVersion":3,"_meta":[]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":4}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"tools":[1,{"name":2},{"name":"x","d":"\\ud800"}]}}',
        b'{"jsonrpc":"2.0","id":true,"result":{"inputRequests":7,"_meta":3,"serverInfo":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{"a":1}}}',
        b'{"jsonrpc":"2.0","id":1e999,"error":"text"}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"tools/call","params":[]}',
    ):
        for message in parse(raw):
            talk.observe(message, "server", 0)
            talk.observe(message, "client", 0)
