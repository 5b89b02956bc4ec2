"""The event envelope as types: the one description of what agentd writes, watches and streams.

`model.EventWriter` builds events by hand; the tests check what it builds against these models, and
the JSON Schema and the reference are generated from them. Nothing in the daemon imports this.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EventClass = Literal[
    "process.exec", "process.exit", "process.fork",
    "process.trace", "process.signal", "process.namespace", "process.control",
    "system.mount", "system.bpf",
    "file.open", "file.delete", "file.rename",
    "network.connect", "network.bind", "network.accept", "network.socket",
    "network.cut",
    "mcp.request", "mcp.response", "mcp.notification", "mcp.noise",
    "session.start", "session.end", "hold.open", "hold.decided",
    "policy.loaded", "policy.rejected", "daemon.start", "daemon.stop", "loss", "tamper",
]  # fmt: skip
Verdict = Literal["allow", "audit", "deny", "hold", "kill"]
Severity = Literal["info", "low", "medium", "high", "critical"]
Pid = Annotated[int, Field(description="process id in the host's PID namespace")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ancestor(_Part):
    """A process further up the tree."""

    pid: Pid
    exe: str | None = None


class Process(_Part):
    """Who did it. A process is identified by boot, `pid` and `start` together."""

    pid: Pid
    start: int | None = Field(None, description="ns after boot, CLOCK_BOOTTIME")
    ppid: Pid | None = None
    uid: int | None = None
    exe: str | None = Field(None, description="resolved path of the executable")
    argv: list[str] | None = None
    comm: str | None = None
    ancestry: list[Ancestor] | None = Field(None, description="parent first")


class File(_Part):
    """The subject of file.* events."""

    path: str
    op: Literal["open", "truncate", "delete", "rename", "link"]
    also: str | None = Field(None, description="another name of the file, which a rule matched")
    access: Literal["read", "write"] | None = None
    ino: int | None = None
    dev: str | None = Field(None, description="device, MAJOR:MINOR as in /proc/self/mountinfo")
    to: str | None = Field(None, description="new path of a rename")


class Target(_Part):
    """The other process of process.trace, process.signal and process.control events."""

    pid: Pid
    exe: str = Field(description="resolved path of its executable")
    access: Literal["read", "attach"] | None = None
    signal: str | None = Field(None, description="SIGKILL, or the number of one without a name")


class Namespace(_Part):
    """The subject of process.namespace events."""

    kind: Literal["user", "create", "join"]
    types: list[str] = Field(description="mount, pid, net, ...; empty where any is meant")


class Mount(_Part):
    """The subject of system.mount events."""

    kind: str = Field(description="mount, bind, move or umount; several where they look the same")
    path: str = Field(description="the mount point")


class BpfCall(_Part):
    """The subject of system.bpf events."""

    command: str = Field(description="number of the command, linux/bpf.h")


class Network(_Part):
    """The subject of network.* events."""

    family: Literal["ipv4", "ipv6", "unix"]
    protocol: str | None = None
    address: str | None = None
    port: int | None = None
    path: str | None = Field(None, description="of a Unix socket; abstract ones begin with @")
    direction: str | None = None


class Exec(_Part):
    """The subject of process.exec."""

    exe: str | None = None
    filename: str | None = Field(None, description="as given to execve, before links are resolved")
    argv: list[str] | None = None


class Exit(_Part):
    """The subject of process.exit."""

    code: int | None = None
    signal: int | None = None


class Fork(_Part):
    """The subject of process.fork."""

    child: Pid


class Mcp(BaseModel):
    """The subject of mcp.* events. Argument values over 2 KiB are shortened."""

    model_config = ConfigDict(extra="allow")

    method: str | None = None
    kind: Literal["request", "response", "notification"] | None = None
    id: str | int | float | None = Field(None, description="JSON-RPC id")
    tool: str | None = None
    arguments: Any = None
    direction: Literal["client-to-server", "server-to-client"] | None = None
    channel: int | None = Field(None, description="inode of the reader's pipe or socket")
    server: dict[str, Any] | None = None
    client: dict[str, Any] | None = None
    protocol_version: str | None = None
    latency_us: float | None = Field(None, description="from the request to its response")
    error: Any = None
    is_error: bool | None = None
    bytes: int | None = None
    anomalies: list[str] | None = None


class Decision(BaseModel):
    """What was decided, by which rules. Absent when no rule matched and nothing was held."""

    model_config = ConfigDict(extra="allow")

    verdict: Verdict
    rules: list[str] = Field(default_factory=list, description="every rule that matched")
    reason: str | None = Field(None, description="what the agent is told")
    severity: Severity | None = None
    tags: list[str] | None = None
    hold_us: float | None = None
    hold_id: str | None = None
    approver: Any = None
    on_timeout: Literal["allow", "deny", "kill"] | None = Field(
        None, description="what was done, if the outcome is timeout"
    )
    tier: str | None = None
    before_effect: bool | None = Field(None, description="decided before it could take effect")
    would: bool | None = Field(None, description="recorded only: the workload's posture is observe")
    outcome: (
        Literal[
            "allowed",
            "denied",
            "killed",
            "blocked",
            "held",
            "timeout",
            "cancelled",
            "gone",
            "released",
        ]
        | None
    ) = None


class LossRange(_Part):
    """Events of one boot that are gone, by their numbers."""

    boot: str
    first: int
    last: int
    count: int


class Loss(BaseModel):
    """Events that are missing, counted where they were lost.

    `source` `journal.budget`: trimmed from the journal before they were streamed (`ranges`);
    `journal.buffer`: never numbered, because the disk refused (`workloads`); `journal.broken`: the
    file was damaged and set aside; `journal.missing`: it was removed or moved; `engine.killed`: an
    engine ended without writing what it had in memory, mostly of its last `journal.flush_ms`; of
    these three the count is not known and given as 0; others name a kernel buffer.
    """

    model_config = ConfigDict(extra="allow")

    count: int
    source: str
    ranges: list[LossRange] | None = None
    workloads: dict[str, int] | None = None


class Event(BaseModel):
    """One event, native format version 1."""

    model_config = ConfigDict(extra="allow")

    v: Literal[1]
    id: str = Field(description="HOST:BOOT8:SEQ; also the Nats-Msg-Id", pattern=r"^[^:]+:.{8}:\d+$")
    seq: int = Field(ge=1, description="without gaps in one boot of one host")
    boot: str = Field(description="the kernel's boot id")
    host: str
    time: str = Field(
        description="RFC 3339, UTC, nanoseconds",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$",
    )
    cls: EventClass = Field(alias="class")
    workload: str | None = None
    session: str | None = None
    task: dict[str, Any] | None = None
    posture: Literal["observe", "enforce"] | None = None
    process: Process | None = None
    file: File | None = None
    network: Network | None = None
    exec: Exec | None = None
    trace: Target | None = None
    signal: Target | None = None
    control: Target | None = None
    namespace: Namespace | None = None
    mount: Mount | None = None
    bpf: BpfCall | None = None
    exit: Exit | None = None
    fork: Fork | None = None
    mcp: Mcp | None = None
    count: int | None = Field(None, ge=2, description="repeats in this one event")
    decision: Decision | None = None
    loss: Loss | None = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event."""
    return Event.model_json_schema(by_alias=True)
