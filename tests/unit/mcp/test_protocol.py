import mcp_types.methods as official
import mcp_types.version as official_version
import pytest

from agentd.mcp import protocol
from agentd.mcp.jsonrpc import Message, parse


@pytest.mark.parametrize(
    "table",
    ["CLIENT_REQUESTS", "CLIENT_NOTIFICATIONS", "SERVER_REQUESTS", "SERVER_NOTIFICATIONS"],
)
def test_tables_agree_with_the_official_types(table: str) -> None:
    """The official package leaves out 2025-11-25's experimental tasks, and nothing else."""
    theirs: dict[str, set[str]] = {}
    for method, version in getattr(official, table):
        theirs.setdefault(method, set()).add(version)
    ours = {
        method: set(versions)
        for method, versions in getattr(protocol, table).items()
        if "tasks/" not in method
    }
    assert ours == theirs


def test_versions_agree_with_the_official_types() -> None:
    assert set(protocol.VERSIONS) == set(official_version.KNOWN_PROTOCOL_VERSIONS)


def test_distinct_methods_per_version() -> None:
    """The counts of the specification's schemas, requests inside results not counted."""
    counts = [
        len(
            {
                method
                for table in (
                    protocol.CLIENT_REQUESTS,
                    protocol.SERVER_REQUESTS,
                    protocol.CLIENT_NOTIFICATIONS,
                    protocol.SERVER_NOTIFICATIONS,
                )
                for method, versions in table.items()
                if version in versions
            }
        )
        for version in protocol.VERSIONS
    ]
    assert counts == [24, 24, 25, 31, 18]


@pytest.mark.parametrize(
    ("raw", "role"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', "server"),
        (b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}', "client"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x/own"}', None),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', "server"),
        (b'{"jsonrpc":"2.0","method":"notifications/message"}', "client"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"serverInfo":{}}}', "client"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}', "client"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"role":"assistant","content":{}}}', "server"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}', "server"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', None),
        (b'{"jsonrpc":"2.0","id":1,"error":{}}', None),
    ],
)
def test_reader_role(raw: bytes, role: str | None) -> None:
    assert protocol.reader_role(parse(raw)[0]) == role


@pytest.mark.parametrize(
    ("raw", "mcp"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"x"}}', True),
        (b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":1}}', False),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}', True),
        (b'{"jsonrpc":"2.0","method":"textDocument/didOpen","params":{}}', False),
        (b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}', True),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', False),
        (b'{"method":"tools/call"}', False),
        (b'{"level":"info"}', False),
    ],
)
def test_is_mcp(raw: bytes, mcp: bool) -> None:
    assert protocol.is_mcp(parse(raw)[0]) is mcp


def test_hidden_requests() -> None:
    result = {
        "resultType": "input_required",
        "inputRequests": {"a": {"method": "sampling/createMessage", "params": {"m": 1}}, "b": 3},
    }
    (hidden,) = protocol.hidden_requests(result)
    assert (hidden.key, hidden.method, hidden.params) == ("a", "sampling/createMessage", {"m": 1})
    assert protocol.hidden_requests({}) == ()
    assert protocol.hidden_requests(None) == ()


def test_subject_of() -> None:
    assert protocol.subject_of(Message("request", 1, "resources/read", {"uri": "file:///x"})) == (
        "file:///x"
    )
    assert protocol.subject_of(Message("request", 1, "tools/call", {"name": 3})) is None
    assert protocol.subject_of(Message("request", 1, "tools/call", [1])) is None
    assert protocol.subject_of(Message("request", 1, "ping", {"name": "x"})) is None
