"""One client and one server: which answer belongs to which request, and what is odd about it."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from agentd.mcp import protocol
from agentd.mcp.jsonrpc import Kind, Message
from agentd.mcp.protocol import InputRequest, Role
from agentd.mcp.toolbook import Toolbook

_DIRECTION = {"server": "client-to-server", "client": "server-to-client"}
_LONG_ID = 256


@dataclass(slots=True)
class Request:
    """A request that waits for its response. `sent_ns` is the clock that `observe` was given."""

    id: Any
    method: str
    subject: str | None
    sent_ns: int
    cancelled: bool = False

    @property
    def tool(self) -> str | None:
        """Name of the tool that was called, if it was a tool call."""
        return self.subject if self.method == "tools/call" else None


@dataclass(slots=True)
class Observation:
    """What one message means in its conversation.

    `subject` is the tool, prompt, URI or task that it is about; `tool` the same for tool calls.
    Responses carry method, subject and tool of the `request` they answer, if that was seen.
    `latency_us` is the time from request to response, in microseconds. `is_error` is true for an
    error response and for a tool result with `isError`. `cancelled` holds the ids of requests that
    a cancellation names. `hidden` are requests to the client inside a result. `retried` says that
    a call continues an earlier one (inputResponses or requestState): a new decision is due.
    """

    kind: Kind
    direction: str
    method: str | None
    id: Any
    subject: str | None
    tool: str | None
    arguments: Any
    protocol_version: str | None
    anomalies: tuple[str, ...]
    request: Request | None = None
    latency_us: float | None = None
    is_error: bool = False
    error: dict[str, Any] | None = None
    cancelled: tuple[Any, ...] = ()
    hidden: tuple[InputRequest, ...] = ()
    changed_tools: tuple[str, ...] = ()
    retried: bool = False


class Conversation:
    """State of one client-server pair; memory bounded by `most_pending` requests each way.

    `protocol_version`, `server_name`, `server_version` and `client_name` are what the two said of
    themselves: labels, not identities. `tools` are the definitions the server listed.
    """

    __slots__ = (
        "_most_pending",
        "_pending",
        "client_name",
        "protocol_version",
        "server_name",
        "server_version",
        "tools",
    )

    def __init__(self, most_pending: int = 1024) -> None:
        self._most_pending = most_pending
        self._pending: dict[Role, OrderedDict[Hashable, Request]] = {
            "server": OrderedDict(),
            "client": OrderedDict(),
        }
        self.protocol_version: str | None = None
        self.server_name: str | None = None
        self.server_version: str | None = None
        self.client_name: str | None = None
        self.tools = Toolbook()

    def observe(self, message: Message, to: Role, t_ns: int) -> Observation:
        """Take the next message, read by `to` at `t_ns` (any monotonic clock, nanoseconds)."""
        if message.kind == "response":
            return self._response(message, to, t_ns)
        method = message.method
        params = message.params if type(message.params) is dict else {}
        subject = protocol.subject_of(message)
        seen = Observation(
            message.kind,
            _DIRECTION[to],
            method,
            message.id,
            subject,
            subject if method == "tools/call" else None,
            params.get("arguments"),
            self.protocol_version,
            message.anomalies,
        )
        if method is None:
            return seen
        if "_meta" in params or method == "initialize":
            self._introduction(seen, params)
        seen.retried = "inputResponses" in params or "requestState" in params
        if message.kind == "request":
            self._remember(seen, to, t_ns)
        elif method == "notifications/cancelled":
            self._cancel(seen, params, to)
        self._judge(seen, to)
        return seen

    def pending(self, to: Role) -> int:
        """Number of requests sent to `to` whose response has not been seen."""
        return len(self._pending[to])

    def _remember(self, seen: Observation, to: Role, t_ns: int) -> None:
        pending = self._pending[to]
        key = _key(seen.id)
        if key in pending:
            seen.anomalies = (*seen.anomalies, "id-reused")
            del pending[key]
        elif len(pending) >= self._most_pending:
            pending.popitem(last=False)
        pending[key] = Request(seen.id, seen.method or "", seen.subject, t_ns)

    def _cancel(self, seen: Observation, params: dict[str, Any], to: Role) -> None:
        """Mark the request as cancelled; its response may still come, late or because it raced."""
        if "requestId" not in params:
            return
        seen.cancelled = (params["requestId"],)
        request = self._pending[to].get(_key(params["requestId"]))
        if request is not None:
            request.cancelled = True
            seen.request = request

    def _response(self, message: Message, to: Role, t_ns: int) -> Observation:
        asked: Role = "server" if to == "client" else "client"
        request = self._pending[asked].pop(_key(message.id), None)
        result = message.result
        error = message.error if type(message.error) is dict else None
        anomalies = message.anomalies
        if request is None:
            anomalies = (*anomalies, "unmatched-response")
        seen = Observation(
            "response",
            _DIRECTION[to],
            request.method if request else None,
            message.id,
            request.subject if request else None,
            request.tool if request else None,
            None,
            self.protocol_version,
            anomalies,
            request,
            (t_ns - request.sent_ns) / 1000 if request else None,
            message.error is not None,
            error,
        )
        if type(result) is dict:
            self._result(seen, result, to)
        return seen

    def _result(self, seen: Observation, result: dict[str, Any], to: Role) -> None:
        if result.get("isError") is True:
            seen.is_error = True
        if to == "server":
            return
        if "inputRequests" in result:
            seen.hidden = protocol.hidden_requests(result)
        if seen.method == "initialize":
            self.protocol_version = _text(result.get("protocolVersion")) or self.protocol_version
            seen.protocol_version = self.protocol_version
            self._server(result.get("serverInfo"))
        elif seen.method == "tools/list" or (seen.request is None and "tools" in result):
            changed, doubled = self.tools.compare(result.get("tools"))
            seen.changed_tools = changed
            if changed:
                seen.anomalies = (*seen.anomalies, "tool-changed")
            if doubled:
                seen.anomalies = (*seen.anomalies, "tool-listed-twice")
        meta = result.get("_meta")
        if type(meta) is dict and protocol.META_SERVER_INFO in meta:
            self._server(meta[protocol.META_SERVER_INFO])

    def _introduction(self, seen: Observation, params: dict[str, Any]) -> None:
        """Learn version and client name from initialize, or from a request's `_meta`."""
        if seen.method == "initialize":
            version, info = params.get("protocolVersion"), params.get("clientInfo")
        else:
            meta = params["_meta"] if type(params["_meta"]) is dict else {}
            version, info = meta.get(protocol.META_VERSION), meta.get(protocol.META_CLIENT_INFO)
        if type(version) is str:
            seen.protocol_version = self.protocol_version = version
        if type(info) is dict:
            self.client_name = _text(info.get("name")) or self.client_name

    def _server(self, info: Any) -> None:
        if type(info) is dict:
            self.server_name = _text(info.get("name")) or self.server_name
            self.server_version = _text(info.get("version")) or self.server_version

    def _judge(self, seen: Observation, to: Role) -> None:
        """Add what the protocol forbids: direction, version, a call without id, a batch."""
        method = seen.method or ""
        odd: list[str] = []
        versions = protocol.versions_of(method, to)
        if versions is not None:
            if not versions:
                odd.append("wrong-direction")
            elif seen.protocol_version in protocol.VERSIONS and (
                seen.protocol_version not in versions
            ):
                odd.append("wrong-version")
            if seen.kind == "notification" and not method.startswith("notifications/"):
                odd.append("call-without-id")
        if method in protocol.NAMED_BY and seen.subject is None:
            odd.append("invalid-params")
        if (
            "batch" in seen.anomalies
            and seen.protocol_version == protocol.BATCH_VERSION
            and method != "initialize"
        ):
            seen.anomalies = tuple(each for each in seen.anomalies if each != "batch")
        if odd:
            seen.anomalies = (*seen.anomalies, *odd)


def _text(value: Any) -> str | None:
    return value[:_LONG_ID] if type(value) is str and value else None


def _key(id_: Any) -> Hashable:
    """Key of a JSON-RPC id: 1 and "1" differ, 1 and 1.0 do not (JavaScript echoes 1 for both)."""
    kind = type(id_)
    if kind is int:
        return id_  # type: ignore[no-any-return]
    if kind is str:
        if len(id_) <= _LONG_ID:
            return id_  # type: ignore[no-any-return]
        return ("long", len(id_), hash(id_))
    if kind is float:
        return int(id_) if id_.is_integer() else id_
    try:
        return (kind.__name__, repr(id_)[:_LONG_ID])
    except RecursionError:  # deeper than CPython can print
        return (kind.__name__, "")
