"""Selectors compiled once, so that an exec that concerns nobody costs one dictionary lookup."""

import fnmatch
import pwd
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from agentd.workloads.identity import ProcessInfo, ProcessKey, may_be_cut
from agentd.workloads.workload import Selector, Workload

ArgumentsReader = Callable[[ProcessKey], Sequence[str]]
EnvironReader = Callable[[ProcessKey], Mapping[str, str]]

_EXE_CACHE_MAX = 4096
_DELETED = " (deleted)"
_UNIT_TYPES = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def _without_deleted(exe: str) -> str:
    """An agent that updated itself while running is still that agent."""
    return exe.removesuffix(_DELETED)


def units_of(cgroup: str | None) -> list[str]:
    """The systemd units on a control group path, outermost first."""
    return [part for part in (cgroup or "").split("/") if part.endswith(_UNIT_TYPES)]


@dataclass(slots=True, frozen=True)
class _Compiled:
    workload: str
    exe: re.Pattern[str] | None
    argv: tuple[re.Pattern[str], ...]
    uids: frozenset[int] | None
    unit: re.Pattern[str] | None
    cgroup: re.Pattern[str] | None
    env: tuple[tuple[str, re.Pattern[str]], ...]
    ancestor: re.Pattern[str] | None

    def matches(
        self,
        info: ProcessInfo,
        argv: Callable[[], Sequence[str]],
        environ: EnvironReader,
        ancestors: Callable[[], Sequence[str]],
    ) -> bool:
        """All fields but `exe`, which the caller has compared; cheapest first."""
        if self.uids is not None and info.uid not in self.uids:
            return False
        if self.argv and not all(any(map(glob.match, argv())) for glob in self.argv):
            return False
        if not self._matches_cgroup(info.cgroup):
            return False
        if self.ancestor is not None and not any(
            self.ancestor.match(_without_deleted(exe)) for exe in ancestors()
        ):
            return False
        if self.env:
            values = environ(info.key)
            return all(name in values and glob.match(values[name]) for name, glob in self.env)
        return True

    def _matches_cgroup(self, path: str | None) -> bool:
        if self.cgroup is not None and not (path and self.cgroup.match(path)):
            return False
        return self.unit is None or any(map(self.unit.match, units_of(path)))


class Selectors:
    """The selectors of all workloads, in order of declaration; the first that matches decides.

    `problems` says in words which selectors cannot match on this host and why.
    """

    def __init__(self, workloads: Iterable[Workload]) -> None:
        self.problems: list[str] = []
        self._selectors = tuple(
            self._compile(workload.name, selector)
            for workload in workloads
            for selector in workload.select
        )
        self._by_exe: dict[str, tuple[_Compiled, ...]] = {}

    def __len__(self) -> int:
        return len(self._selectors)

    def match(
        self,
        info: ProcessInfo,
        arguments: ArgumentsReader,
        environ: EnvironReader,
        ancestors: Callable[[], Sequence[str]],
    ) -> str | None:
        """The name of the workload that the process belongs to, None if it belongs to none.

        `environ(key)` and `ancestors()` (executables, nearest first) are called only if a selector
        that matches so far asks for them, `arguments(key)` only if `info` has not all of them.
        """

        @cache
        def argv() -> Sequence[str]:
            return arguments(info.key) if may_be_cut(info.argv) else info.argv

        for selector in self._candidates(info.exe):
            if selector.matches(info, argv, environ, ancestors):
                return selector.workload
        return None

    def concern(self, exe: str) -> bool:
        """Whether a process with this executable may match, depending on the rest of it."""
        return bool(self._candidates(exe))

    def _candidates(self, exe: str) -> tuple[_Compiled, ...]:
        known = self._by_exe.get(exe)
        if known is not None:
            return known
        if len(self._by_exe) >= _EXE_CACHE_MAX:
            self._by_exe.clear()
        path = _without_deleted(exe)
        found = tuple(s for s in self._selectors if s.exe is None or s.exe.match(path))
        self._by_exe[exe] = found
        return found

    def _compile(self, workload: str, selector: Selector) -> _Compiled:
        return _Compiled(
            workload=workload,
            exe=_glob(selector.exe) if selector.exe else None,
            argv=tuple(map(_glob, selector.argv or ())),
            uids=None if selector.uid is None else self._uids(workload, selector.uid),
            unit=_glob(selector.unit) if selector.unit else None,
            cgroup=_glob(selector.cgroup) if selector.cgroup else None,
            env=tuple((name, _glob(glob)) for name, glob in (selector.env or {}).items()),
            ancestor=_glob(selector.ancestor) if selector.ancestor else None,
        )

    def _uids(self, workload: str, users: Iterable[int | str]) -> frozenset[int]:
        """User names are looked up now; one that this host does not know matches nobody."""
        uids = set()
        for user in users:
            if isinstance(user, int):
                uids.add(user)
                continue
            try:
                uids.add(pwd.getpwnam(user).pw_uid)
            except KeyError:
                self.problems.append(
                    f"workload {workload}: this host has no user {user!r}; "
                    "the name matches nobody until it exists and the rules are reloaded"
                )
        return frozenset(uids)
