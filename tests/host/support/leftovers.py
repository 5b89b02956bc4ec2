"""What a test run may leave behind on a host, found by comparing before and after.

Processes are ours by descent (see `processes`). BPF programs, pins, cgroups, mounts and files
belong to nobody in that sense: they are compared by name, and that comparison is only made when
no other agentd runs on the machine, because then they could be its.
"""

import contextlib
import ctypes
import ctypes.util
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.host.support.processes import describe, living_descendants, reap_orphans

_BPFFS = Path("/sys/fs/bpf")
_DEFAULT_PLACES = (Path("/run/agentd"), Path("/var/lib/agentd"), Path("/etc/agentd"))


@dataclass(frozen=True, slots=True)
class HostState:
    """Names of the things that agentd makes on a host, at one moment."""

    programs: frozenset[str] = field(default_factory=frozenset)
    pins: frozenset[str] = field(default_factory=frozenset)
    cgroups: frozenset[str] = field(default_factory=frozenset)
    mounts: frozenset[str] = field(default_factory=frozenset)
    places: frozenset[str] = field(default_factory=frozenset)

    def added_since(self, before: "HostState") -> list[str]:
        """List what is here and was not there, one line each."""
        kinds = (
            ("BPF program still loaded", self.programs - before.programs),
            ("BPF pin", self.pins - before.pins),
            ("cgroup", self.cgroups - before.cgroups),
            ("mount", self.mounts - before.mounts),
            ("file outside the test directory", self.places - before.places),
        )
        return [f"{kind}: {name}" for kind, names in kinds for name in sorted(names)]


def host_state() -> HostState:
    """Take the present state; reading programs needs CAP_SYS_ADMIN and is empty without it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return HostState(
        programs=frozenset(_programs()),
        pins=frozenset(map(str, _BPFFS.rglob("*"))) if _BPFFS.is_dir() else frozenset(),
        cgroups=frozenset(_agentd_cgroups(mounts)),
        mounts=frozenset(line.split()[4] for line in mounts if "agentd" in line),
        places=frozenset(str(place) for place in _DEFAULT_PLACES if place.exists()),
    )


def _programs() -> list[str]:
    """Loaded programs by their tag, and a number for those that have the same one.

    Not by id: systemd loads its own anew when its units change.
    """
    name = ctypes.util.find_library("bpf")
    if name is None or os.geteuid() != 0:
        return []
    libbpf = ctypes.CDLL(name)
    found: Counter[str] = Counter()
    current = ctypes.c_uint32(0)
    while libbpf.bpf_prog_get_next_id(current, ctypes.byref(current)) == 0:
        fd = libbpf.bpf_prog_get_fd_by_id(current)
        if fd >= 0:  # else it has just been unloaded
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
            os.close(fd)
            found.update(line.split()[1] for line in lines if line.startswith("prog_tag:"))
    return [f"tag {tag}, {n + 1}" for tag, count in found.items() for n in range(count)]


def _agentd_cgroups(mounts: list[str]) -> list[str]:
    roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    return [
        str(Path(directory, name))
        for root in roots
        for directory, names, _ in os.walk(root)
        for name in names
        if "agentd" in name
    ]


def foreign_daemons() -> list[str]:
    """Running agentd daemons that are not our descendants."""
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in ours and _is_daemon(process.cmdline()):
                found.append(describe(process))
    return found


def _is_daemon(words: list[str]) -> bool:
    """Whether this is the command line of `agentd daemon`, or of what it turns itself into."""
    started = "daemon" in words and any(Path(word).name == "agentd" for word in words[:2])
    return started or "agentd.cli.supervise" in words


def leftovers(before: HostState, settle_s: float = 30.0) -> list[str]:
    """List what this run leaves behind, after waiting up to `settle_s` seconds for things to end.

    Our own processes that still live are killed after they have been listed.
    """
    deadline = time.monotonic() + settle_s
    while True:
        reap_orphans()
        processes = living_descendants()
        things = [] if foreign_daemons() else host_state().added_since(before)
        if not processes and not things:
            return []
        if time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    lines = [f"process: {describe(process)}" for process in processes] + things
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return lines
