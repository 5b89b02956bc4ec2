"""MCP's method tables, versions 2024-11-05 to 2026-07-28.

Extracted from the specification's `schema/VERSION/schema.json` files.
"""

from dataclasses import dataclass
from typing import Any, Literal

from agentd.mcp.jsonrpc import OVER_LIMIT, Message

Role = Literal["server", "client"]

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
BATCH_VERSION = "2025-03-26"
"""The only version in which a line may hold a batch."""

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
META_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
META_REQUIRED = (META_VERSION, "io.modelcontextprotocol/clientCapabilities")
"""What every request of 2026-07-28 must carry in `_meta`."""

_ALL = frozenset(VERSIONS)
_STATEFUL = frozenset(VERSIONS[:4])
_FROM_2506 = frozenset(VERSIONS[2:4])
_2511 = frozenset(VERSIONS[3:4])
_2607 = frozenset(VERSIONS[4:])

CLIENT_REQUESTS: dict[str, frozenset[str]] = {
    "initialize": _STATEFUL,
    "server/discover": _2607,
    "ping": _STATEFUL,
    "tools/list": _ALL,
    "tools/call": _ALL,
    "resources/list": _ALL,
    "resources/templates/list": _ALL,
    "resources/read": _ALL,
    "resources/subscribe": _STATEFUL,
    "resources/unsubscribe": _STATEFUL,
    "subscriptions/listen": _2607,
    "prompts/list": _ALL,
    "prompts/get": _ALL,
    "completion/complete": _ALL,
    "logging/setLevel": _STATEFUL,
    "tasks/get": _2511,
    "tasks/result": _2511,
    "tasks/list": _2511,
    "tasks/cancel": _2511,
}
"""Requests that a client sends, and the versions that have them."""

SERVER_REQUESTS: dict[str, frozenset[str]] = {
    "ping": _STATEFUL,
    "sampling/createMessage": _STATEFUL,
    "roots/list": _STATEFUL,
    "elicitation/create": _FROM_2506,
    "tasks/get": _2511,
    "tasks/result": _2511,
    "tasks/list": _2511,
    "tasks/cancel": _2511,
}
"""Requests that a server sends; 2026-07-28 has none (they travel inside results)."""

CLIENT_NOTIFICATIONS: dict[str, frozenset[str]] = {
    "notifications/initialized": _STATEFUL,
    "notifications/roots/list_changed": _STATEFUL,
    "notifications/cancelled": _ALL,
    "notifications/progress": _STATEFUL,
    "notifications/tasks/status": _2511,
}

SERVER_NOTIFICATIONS: dict[str, frozenset[str]] = {
    "notifications/cancelled": _ALL,
    "notifications/progress": _ALL,
    "notifications/message": _ALL,
    "notifications/tools/list_changed": _ALL,
    "notifications/prompts/list_changed": _ALL,
    "notifications/resources/list_changed": _ALL,
    "notifications/resources/updated": _ALL,
    "notifications/elicitation/complete": _2511,
    "notifications/subscriptions/acknowledged": _2607,
    "notifications/tasks/status": _2511,
}

NAMED_BY: dict[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/result": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of params that names what a request is about."""

_TO_SERVER = CLIENT_REQUESTS.keys() | CLIENT_NOTIFICATIONS.keys()
_TO_CLIENT = SERVER_REQUESTS.keys() | SERVER_NOTIFICATIONS.keys()
_READER: dict[str, Role] = {
    **dict.fromkeys(_TO_SERVER - _TO_CLIENT, "server"),
    **dict.fromkeys(_TO_CLIENT - _TO_SERVER, "client"),
}
_VERSIONS_TO_SERVER = {**CLIENT_REQUESTS, **CLIENT_NOTIFICATIONS}
_VERSIONS_TO_CLIENT = {**SERVER_REQUESTS, **SERVER_NOTIFICATIONS}

_FROM_CLIENT_RESULT = frozenset({"roots", "action", "role"})
_FROM_SERVER_RESULT = frozenset(
    {
        "serverInfo",
        "supportedVersions",
        "tools",
        "content",
        "resources",
        "resourceTemplates",
        "contents",
        "prompts",
        "messages",
        "completion",
        "inputRequests",
    }
)


@dataclass(slots=True)
class InputRequest:
    """A request to the client that travels inside a result (2026-07-28, multi-round-trip)."""

    key: str
    method: str
    params: Any


def reader_role(message: Message) -> Role | None:
    """Who must be the reader of this message; None if both may be.

    Requests and notifications are told by their method, responses by the shape of their result.
    """
    if message.method is not None:
        return _READER.get(message.method)
    result = message.result
    if message.kind != "response" or type(result) is not dict:
        return None
    if not _FROM_CLIENT_RESULT.isdisjoint(result):
        return "server"
    return None if _FROM_SERVER_RESULT.isdisjoint(result) else "client"


def is_mcp(message: Message) -> bool:
    """Whether this message shows its stream to be MCP, not another JSON-RPC protocol.

    LSP has `initialize` too, without a protocolVersion, and frames with headers.
    """
    if "not-jsonrpc" in message.anomalies:
        return False
    if message.kind == "invalid":
        return OVER_LIMIT in message.anomalies  # what could be one must not pass for noise
    if message.method == "initialize":
        params = message.params
        return type(params) is dict and type(params.get("protocolVersion")) is str
    if message.method is not None:
        return message.method in _TO_SERVER or message.method in _TO_CLIENT
    return reader_role(message) is not None


def versions_of(method: str, to: Role) -> frozenset[str] | None:
    """Versions in which `method` may be sent to `to`; None if no table has it (an extension)."""
    table = _VERSIONS_TO_SERVER if to == "server" else _VERSIONS_TO_CLIENT
    found = table.get(method)
    if found is None and method in _READER:
        return frozenset()
    return found


def subject_of(message: Message) -> str | None:
    """Name, URI or task id that a request is about (`NAMED_BY`); None if it has none."""
    member = NAMED_BY.get(message.method or "")
    if member is None or type(message.params) is not dict:
        return None
    subject = message.params.get(member)
    return subject if type(subject) is str else None


def meta_version(message: Message) -> str | None:
    """Protocol version that the message itself states in `_meta` (2026-07-28 and later)."""
    params = message.params
    if type(params) is not dict:
        return None
    meta = params.get("_meta")
    if type(meta) is not dict:
        return None
    version = meta.get(META_VERSION)
    return version if type(version) is str else None


def hidden_requests(result: Any) -> tuple[InputRequest, ...]:
    """Requests to the client inside an InputRequiredResult; () for every other result."""
    if type(result) is not dict or type(result.get("inputRequests")) is not dict:
        return ()
    return tuple(
        InputRequest(key, item["method"], item.get("params"))
        for key, item in result["inputRequests"].items()
        if type(item) is dict and type(item.get("method")) is str
    )
