"""Workloads in force: plain data, checked when the files were read (see `model`)."""

from dataclasses import dataclass
from typing import Literal

Posture = Literal["observe", "enforce"]
OnFailure = Literal["allow", "deny"]


@dataclass(frozen=True, slots=True)
class Selector:
    """What a process must look like to belong to a workload; all fields given must match.

    Globs are shell patterns (`*`, `?`, `[...]`) over the whole value; `*` also crosses `/`.
    """

    exe: str | None = None
    """Glob on the resolved executable (`/proc/PID/exe`)."""
    argv: tuple[str, ...] | None = None
    """Globs; each must match some argument (argument 0 included)."""
    uid: tuple[int | str, ...] | None = None
    """Real user ids or user names; any of them."""
    unit: str | None = None
    """Glob on any systemd unit on the path of the process's control group."""
    cgroup: str | None = None
    """Glob on the control group path, as in `/proc/PID/cgroup`."""
    env: dict[str, str] | None = None
    """Environment variable -> glob on its value; all must match. As of exec: later changes by the
    process to its own environment do not count."""
    ancestor: str | None = None
    """Glob on the executable of any ancestor."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A named class of agent: what belongs to it, and how strictly it is bound."""

    name: str
    description: str = ""
    posture: Posture = "observe"
    on_failure: OnFailure = "deny"
    """The verdict on held calls if the engine dies."""
    select: tuple[Selector, ...] = ()
    """Any of these; none means that only `agentd run` starts sessions of this workload."""
