"""Control groups of sessions: one directory each in the cgroup2 tree, without any controller.

A session's group is made below the process's present group, so that the limits, the accounting
and the login session that systemd ties to that path stay in force; but never inside a subtree that
somebody other than root may write (systemd's delegated user managers), since from there an agent
could move itself out again (cgroups(7), delegation: the common ancestor must be writable). On a
host without any groups that is `<mount>/agentd/<session id>`.
"""

import errno
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentd.workloads.identity import readable

PARENT = "agentd"
_NESTED = re.compile(r"agentd-(s-[a-z2-7]{8})")
_PLAIN = re.compile(r"s-[a-z2-7]{8}")
_OCTAL = re.compile(r"\\([0-7]{3})")


class CgroupError(Exception):
    """A control group that could not be made or entered; says which and why."""


@dataclass(slots=True, frozen=True)
class SessionCgroup:
    """A session's control group. `id` is what bpf_get_current_cgroup_id() returns: its inode."""

    directory: Path
    name: str
    """The path as `/proc/PID/cgroup` shows it."""
    id: int


class CgroupTree:
    """The cgroup2 file system as mounted at `mount`, whose top is `root` of the hierarchy."""

    def __init__(self, mount: Path, root: str = "/") -> None:
        self.mount = mount
        self._root = root
        self._leaving: set[Path] = set()

    @classmethod
    def find(
        cls, mountinfo: Path = Path("/proc/self/mountinfo")
    ) -> "tuple[CgroupTree | None, str]":
        """The tree, or None, and in words what was found."""
        candidates = []
        others = 0
        for line in mountinfo.read_text("utf-8", "backslashreplace").splitlines():
            fields, _, rest = line.partition(" - ")
            kind = rest.split(" ", 1)[0]
            others += kind == "cgroup"
            if kind == "cgroup2":
                root, mount, options = fields.split()[3:6]
                writable = "rw" in options.split(",")
                candidates.append((not writable, root != "/", _unescaped(mount), _unescaped(root)))
        if not candidates:
            return None, (
                "no cgroup2 file system is mounted, so connections cannot be blocked per session "
                "and network rules act by kill; mend: mount -t cgroup2 none /some/directory"
            )
        read_only, _, mount, root = min(candidates)
        if read_only:
            return None, (
                f"cgroup2 at {mount} is mounted read-only, so sessions get no group of their own "
                "and network rules act by kill"
            )
        kind = "hybrid, beside cgroup v1" if others else "unified"
        return cls(Path(mount), root), f"cgroup2 at {mount} ({kind})"

    def create(self, session_id: str, pid: int | None = None) -> SessionCgroup:
        """Make the group of a session for process `pid` (None: directly below the top).

        Raises CgroupError.
        """
        for directory in self._places(session_id, pid):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                if (directory / "cgroup.type").read_text().strip() == "domain":
                    name = self._root.rstrip("/") + "/" + str(directory.relative_to(self.mount))
                    return SessionCgroup(directory, name, directory.stat().st_ino)
                directory.rmdir()  # below threaded groups no process can be put
            except OSError as error:
                problem = f"{directory}: {error.strerror}"
            else:
                problem = f"{directory}: the groups around it are threaded"
        raise CgroupError(f"no control group for session {session_id}: {problem}")

    def move(self, group: SessionCgroup, pid: int) -> None:
        """Move a process with all its threads. Raises CgroupError.

        The pid must be known to be the process that is meant, and to stay so: stopped, or waiting
        for our answer.
        """
        try:
            (group.directory / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise CgroupError(
                f"process {pid} cannot enter {group.directory}: {error.strerror}"
            ) from error

    def remove(self, directory: Path) -> bool:
        """Remove a session's group and what was made below it; False if it is still in use.

        It then is tried again by `reap`: the kernel reports an exit before it leaves the group.
        """
        try:
            for path, _, _ in os.walk(directory, topdown=False):
                Path(path).rmdir()
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._leaving.add(directory)
                return False
        self._leaving.discard(directory)
        return True

    def reap(self) -> int:
        """Try again to remove what was in use; returns how many groups are left."""
        for directory in list(self._leaving):
            self.remove(directory)
        return len(self._leaving)

    def clean(self, keep: Collection[str] = ()) -> list[Path]:
        """At start: remove groups of sessions whose ids are not in `keep`.

        Returns those that still hold processes; they are left alone.
        """
        stale = [path for path, session_id in self._session_groups() if session_id not in keep]
        left = [path for path in stale if not self.remove(path)]
        self._leaving.difference_update(left)
        return left

    def close(self) -> None:
        """At shutdown: remove every group that is empty, and the parent of them if it is."""
        for path, _ in list(self._session_groups()):
            self.remove(path)
        self._leaving.clear()
        try:
            (self.mount / PARENT).rmdir()
        except OSError:
            return  # never made, or a session outlives the daemon

    def _places(self, session_id: str, pid: int | None) -> Iterator[Path]:
        """Directories to try: below the process's own group, else nearer to the top."""
        here = self.mount
        trusted = []
        for part in self._own_path(pid):
            here /= part
            try:
                control = (here / "cgroup.procs").stat()
            except OSError:
                break
            if control.st_uid != 0 or control.st_mode & 0o022:
                break
            trusted.append(here)
        for group in reversed(trusted):
            yield group / f"{PARENT}-{session_id}"
        yield self.mount / PARENT / session_id

    def _own_path(self, pid: int | None) -> list[str]:
        """The process's group, as path components below the mount."""
        if pid is None:
            return []
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_bytes().splitlines()
        except OSError:
            return []
        path = next((readable(line[3:]) for line in lines if line.startswith(b"0::")), "/")
        top = self._root.rstrip("/")
        if path != top and not path.startswith(top + "/"):
            return []
        parts = [part for part in path.removeprefix(top).split("/") if part]
        for index, part in enumerate(parts):
            if part in {"..", PARENT} or _NESTED.fullmatch(part):
                return parts[:index]  # outside our namespace, or a session's: stay beside it
        return parts

    def _session_groups(self) -> Iterator[tuple[Path, str]]:
        for path, names, _ in os.walk(self.mount):
            inside = []
            for name in names:
                nested = _NESTED.fullmatch(name)
                if nested is not None:
                    yield Path(path, name), nested[1]
                elif Path(path) == self.mount / PARENT and _PLAIN.fullmatch(name):
                    yield Path(path, name), name
                else:
                    inside.append(name)
            names[:] = inside


def _unescaped(field: str) -> str:
    """A field of mountinfo, in which blanks and backslashes are octal (proc_pid_mountinfo(5))."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
