"""Workloads as people write them, checked with pydantic while files are read."""

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from agentd.workloads.workload import OnFailure, Posture

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


class SelectorModel(BaseModel):
    """A `Selector` as it is written; `uid` may be one user or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exe: PathGlob | None = None
    argv: tuple[Glob, ...] | None = Field(default=None, min_length=1)
    uid: Annotated[tuple[int | str, ...], BeforeValidator(_users)] | None = None
    unit: UnitGlob | None = None
    cgroup: PathGlob | None = None
    env: Annotated[dict[str, Glob], AfterValidator(_environment)] | None = Field(
        default=None, min_length=1
    )
    ancestor: PathGlob | None = None

    @model_validator(mode="after")
    def _selects_something(self) -> "SelectorModel":
        if not any(getattr(self, field) is not None for field in SelectorModel.model_fields):
            raise ValueError(
                "an empty selector would match every process; give at least one of "
                + ", ".join(SelectorModel.model_fields)
            )
        return self


class WorkloadModel(BaseModel):
    """A `Workload` as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: Annotated[str, Field(max_length=1000)] = ""
    posture: Posture = "observe"
    on_failure: OnFailure = "deny"
    select: tuple[SelectorModel, ...] = ()
