"""Rules in force: plain data, checked when the files were read (see `model` and `loader`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentd.workloads.workload import OnFailure, Workload

On = Literal[
    "mcp.tool_call",
    "mcp.request",
    "mcp.response",
    "mcp.notification",
    "file.open",
    "file.delete",
    "file.rename",
    "process.exec",
    "network.connect",
    "network.bind",
    "network.socket",
    "process.trace",
    "process.signal",
    "process.namespace",
    "system.mount",
    "system.bpf",
]
Action = Literal["allow", "audit", "deny", "hold", "kill"]
Severity = Literal["info", "low", "medium", "high", "critical"]
KillScope = Literal["process", "session"]
OnTimeout = Literal["allow", "deny", "kill"]
Access = Literal["read", "write", "attach"]
"""attach: of process.trace only."""
Kind = Literal["user", "create", "join", "mount", "bind", "move", "umount"]
"""Of process.namespace, of system.mount."""
Protocol = Literal["tcp", "udp", "sctp", "unix"]
SocketFamily = Literal[
    "raw", "key", "netlink", "packet", "rds", "pppox", "can", "tipc", "bluetooth", "rxrpc", "alg",
    "nfc", "vsock", "kcm", "qipcrtr", "smc", "xdp", "mctp",
]  # fmt: skip

ACTION_RANK: dict[Action, int] = {"allow": 0, "audit": 1, "hold": 2, "deny": 3, "kill": 4}
SEVERITY_RANK: dict[Severity, int] = {"info": 0, "low": 1, "medium": 2, "high": 3, "critical": 4}

HOLD_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class TextTest:
    """Globs over a text (any of those without `!`, none of those with), or a regular expression."""

    globs: tuple[str, ...] = ()
    regex: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What an event must look like; all fields given must match."""

    tool: tuple[str, ...] | None = None
    server: tuple[str, ...] | None = None
    method: tuple[str, ...] | None = None
    arguments: dict[str, TextTest] | None = None
    path: tuple[str, ...] | None = None
    """Path globs for file.*, name globs on the socket path for network.*."""
    except_: tuple[str, ...] | None = None
    """Path globs for file.*, networks for network.*."""
    access: tuple[Access, ...] | None = None
    exe: tuple[str, ...] | None = None
    argv: TextTest | None = None
    cidr: tuple[str, ...] | None = None
    port: tuple[tuple[int, int], ...] | None = None
    """Ranges: first and last port."""
    protocol: tuple[Protocol, ...] | None = None
    signal: tuple[int, ...] | None = None
    kind: tuple[Kind, ...] | None = None
    family: tuple[SocketFamily, ...] | None = None
    """Kinds of sockets, for network.socket."""


@dataclass(frozen=True, slots=True)
class Approve:
    """How long a hold waits for a person, and what happens if nobody answers."""

    timeout: float = HOLD_TIMEOUT_S
    """Seconds."""
    on_timeout: OnTimeout = "deny"


Example = dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Examples:
    """Events that a rule must match, and events that it must leave alone."""

    match: tuple[Example, ...] = ()
    pass_: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    id: str
    on: On
    action: Action
    workloads: tuple[str, ...] = ("*",)
    match: Match = Match()
    when: str | None = None
    kill: KillScope | None = None
    approve: Approve | None = None
    """Always there if the action is hold."""
    mark: tuple[str, ...] = ()
    severity: Severity = "medium"
    reason: str = ""
    tags: tuple[str, ...] = ()
    tests: Examples = Examples()

    @property
    def family(self) -> str:
        """The first part of `on`: mcp, file, process, network or system."""
        return self.on.partition(".")[0]

    @property
    def told(self) -> str:
        """What the agent is told."""
        return self.reason or f"not allowed by rule {self.id}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule or workload is written."""

    file: Path
    line: int
    examples: dict[tuple[str, int], int] = field(default_factory=dict)
    """("match" or "pass", index) -> line, for the tests of a rule."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a rule or workload has that does not say otherwise: the configuration's `defaults`."""

    hold_timeout: float = HOLD_TIMEOUT_S
    """Seconds."""
    on_failure: OnFailure = "deny"


@dataclass(slots=True)
class Policy:
    """All workloads and rules that were read."""

    workloads: dict[str, Workload] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    """Rule id -> where it is written."""
    disabled: dict[str, Source] = field(default_factory=dict)
    """Id of a rule that a later file has switched off -> where that is written."""
