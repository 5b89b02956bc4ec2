"""Workloads and tasks as people write them; used when files and requests are read, never later."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?")
UID_MAX = 2**32 - 2  # (uid_t)-1 means "no change" to the kernel and is never anybody's id


def _rooted(glob: str) -> str:
    """A pattern for a whole path: anything else could never match."""
    if not glob.startswith(("/", "*", "?", "[")):
        raise ValueError(f"{glob!r} is compared with a whole path; write '/...' or '*/{glob}'")
    return glob


def _unit_name(glob: str) -> str:
    if "." not in glob and not glob.endswith("*"):
        raise ValueError(
            f"{glob!r} is compared with a whole unit name; write '{glob}.service' or '{glob}.*'"
        )
    return glob


def _users(value: Any) -> Any:
    """One uid or user name, or a list of them -> a tuple of both kinds."""
    users = list(value) if isinstance(value, (list, tuple)) else [value]
    if not users:
        raise ValueError("the list of users is empty; name at least one uid or user")
    for user in users:
        if isinstance(user, int) and not isinstance(user, bool):
            if not 0 <= user <= UID_MAX:
                raise ValueError(f"{user} is not a user id; use 0 to {UID_MAX}")
        elif not isinstance(user, str) or not USER_NAME.fullmatch(user):
            raise ValueError(f"{user!r} is neither a user id nor a user name")
    return tuple(users)


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an environment variable")
    return value


Glob = Annotated[str, Field(min_length=1, max_length=4096)]
PathGlob = Annotated[Glob, AfterValidator(_rooted)]
UnitGlob = Annotated[Glob, AfterValidator(_unit_name)]


class Selector(BaseModel):
    """What a process must look like to belong to a workload; all fields given must match.

    Globs are shell patterns (`*`, `?`, `[...]`) over the whole value; `*` also crosses `/`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exe: PathGlob | None = None
    """Glob on the resolved executable (`/proc/PID/exe`)."""
    argv: tuple[Glob, ...] | None = Field(default=None, min_length=1)
    """Globs; each must match some argument (argument 0 included)."""
    uid: Annotated[tuple[int | str, ...], BeforeValidator(_users)] | None = None
    """Real user ids or user names; any of them."""
    unit: UnitGlob | None = None
    """Glob on any systemd unit on the path of the process's control group."""
    cgroup: PathGlob | None = None
    """Glob on the control group path, as in `/proc/PID/cgroup`."""
    env: Annotated[dict[str, Glob], AfterValidator(_environment)] | None = Field(
        default=None, min_length=1
    )
    """Environment variable -> glob on its value; all must match. As of exec: later changes by the
    process to its own environment do not count."""
    ancestor: PathGlob | None = None
    """Glob on the executable of any ancestor."""

    @model_validator(mode="after")
    def _selects_something(self) -> "Selector":
        if not any(getattr(self, field) is not None for field in Selector.model_fields):
            raise ValueError(
                "an empty selector would match every process; give at least one of "
                + ", ".join(Selector.model_fields)
            )
        return self


class Workload(BaseModel):
    """A named class of agent: what belongs to it, and how strictly it is bound."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: Annotated[str, Field(max_length=1000)] = ""
    posture: Literal["observe", "enforce"] = "observe"
    on_failure: Literal["allow", "deny"] = "deny"
    """The verdict on held calls if the engine dies."""
    select: tuple[Selector, ...] = ()
    """Any of these; none means that only `agentd run` starts sessions of this workload."""


class Task(BaseModel):
    """What a session says it is doing. Reported by the agent's side: context, not proof."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Annotated[str, Field(min_length=1, max_length=500)]
    requester: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    expires: AwareDatetime | None = None
    """When the task ends, RFC 3339 with an offset."""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values; absent fields are left out."""
        return self.model_dump(mode="json", exclude_none=True)
