"""Loads the BPF objects and attaches them: what the supervisor owns.

The attachments are file descriptors of the process that calls `Sensor.load`, so they live and
die with it, not with the engine that consumes the rings.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentd.errors import AgentdError
from agentd.kernel.enforcer import Enforcer
from agentd.kernel.libbpf import BpfObject, KernelError, Map, Program, trim_heap
from agentd.kernel.pins import Pins
from agentd.kernel.tier import OBSERVE
from agentd.kernel.wire import U32

_FOLDER: Final = Path(__file__).parent / "objects"
OBJECTS: Final = (
    "attribution",
    "exec",
    "syscalls",
    "files",
    "changes",
    "sockets",
    "mcp",
    "network",
)

_RAW_TRACEPOINTS: Final = {
    "on_fork": "sched_process_fork",
    "on_exit": "sched_process_exit",
    "on_exec": "sched_process_exec",
}
_SYSCALL_LINK: Final = "on_sys_exit"
_CGROUP_PROGRAMS: Final = ("on_connect4", "on_connect6", "on_sendmsg4", "on_sendmsg6")

SYSCALLS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "open": 2,
        "readv": 19,
        "writev": 20,
        "socket": 41,
        "connect": 42,
        "accept": 43,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "bind": 49,
        "truncate": 76,
        "rename": 82,
        "rmdir": 84,
        "creat": 85,
        "link": 86,
        "unlink": 87,
        "openat": 257,
        "unlinkat": 263,
        "renameat": 264,
        "linkat": 265,
        "accept4": 288,
        "open_by_handle_at": 304,
        "sendmmsg": 307,
        "renameat2": 316,
        "pwritev2": 328,
        "openat2": 437,
        "pidfd_getfd": 438,
    },
    "aarch64": {
        "unlinkat": 35,
        "linkat": 37,
        "renameat": 38,
        "truncate": 45,
        "openat": 56,
        "read": 63,
        "write": 64,
        "readv": 65,
        "writev": 66,
        "socket": 198,
        "bind": 200,
        "accept": 202,
        "connect": 203,
        "sendto": 206,
        "recvfrom": 207,
        "sendmsg": 211,
        "recvmsg": 212,
        "accept4": 242,
        "open_by_handle_at": 265,
        "sendmmsg": 269,
        "renameat2": 276,
        "pwritev2": 287,
        "openat2": 437,
        "pidfd_getfd": 438,
    },
}
"""System call numbers by machine (asm/unistd_64.h, asm-generic/unistd.h)."""

_HANDLERS: Final = {
    "after_read": ("read",),
    "after_readv": ("readv",),
    "after_recvfrom": ("recvfrom",),
    "after_recvmsg": ("recvmsg",),
    "after_open": ("open", "openat", "openat2", "creat", "open_by_handle_at", "pidfd_getfd"),
    "after_change": ("unlink", "rmdir", "truncate"),
    "after_change_at": ("unlinkat",),
    "after_move": ("rename", "link"),
    "after_move_at": ("renameat", "renameat2", "linkat"),
    "after_socket": ("socket",),
    "after_connect": ("connect",),
    "after_bind": ("bind",),
    "after_accept": ("accept", "accept4"),
    "after_sendto": ("sendto",),
    "after_sendmsg": ("sendmsg", "sendmmsg"),
}


_WRITE_HANDLERS: Final = {"after_write": ("write", "writev", "pwritev2")}
"""Where writes are held: how much of each the channel has taken."""


def syscall_numbers() -> dict[str, int]:
    """The numbers of this machine. Raises AgentdError on an architecture that is not known."""
    try:
        return SYSCALLS[platform.machine()]
    except KeyError:
        raise AgentdError(
            f"agentd does not know the system calls of {platform.machine()}"
        ) from None


class Sensor:
    """The loaded programs of the observe tier, their shared maps and their attachments."""

    def __init__(self) -> None:
        self.maps: dict[str, Map] = {}
        self._programs: dict[str, Program] = {}
        self._always: list[int] = []
        self._syscalls: int | None = None
        self._guards: dict[str, list[int]] = {}
        self._pins: Pins | None = None
        self.enforcer = Enforcer()

    def load(self, left: dict[str, Map] | None = None) -> None:
        """Loads every object. Raises KernelError with libbpf's own words.

        `left`: pinned maps of an earlier daemon, to go on with.
        """
        self.maps |= left or {}
        for name in OBJECTS:
            path = _FOLDER / f"{name}.bpf.o"
            if not path.is_file():
                raise AgentdError(f"{path} is missing; run `make objects` or reinstall agentd")
            loaded = BpfObject(name, path.read_bytes(), self.maps)
            loaded.share_maps(self.maps)
            self._programs |= loaded.programs
            loaded.close()
        self._handle(_HANDLERS)
        trim_heap()

    def _handle(self, handlers: Mapping[str, tuple[str, ...]]) -> None:
        """Lets these programs see the end of the system calls that they name."""
        numbers = syscall_numbers()
        for program, calls in handlers.items():
            for call in calls:
                if call in numbers:
                    self.maps["syscall_handlers"].put(
                        U32.pack(numbers[call]), U32.pack(self._programs[program].fd)
                    )

    def enforce(self, tier: str) -> None:
        """Loads the LSM programs: those of a tier, or of the best one ("auto")."""
        self.enforcer.load(tier, _FOLDER, self.maps)
        if self.enforcer.families["mcp"] != OBSERVE:
            self._handle(_WRITE_HANDLERS)

    def attach(self, pins: Pins) -> None:
        """Attaches what is always on: attribution, and decisions where the kernel takes them.

        Where it takes them, they and what they rest on are pinned: they outlive this process, and
        take over one by one from those of an earlier one.
        """
        if self.enforcer.tier != OBSERVE:
            self._pins = pins
            pins.make()
            for bpf_map in self.maps.values():
                pins.keep_map(bpf_map)
        kept = {_SYSCALL_LINK}
        for name, tracepoint in _RAW_TRACEPOINTS.items():
            link = self._programs[name].attach_raw_tracepoint(tracepoint)
            self._always.append(link)
            self._keep(name, link)
            kept.add(name)
        for name, link in self.enforcer.attach():
            self._keep(name, link)
            kept.add(name)
        if self._pins is not None:
            self._pins.retain_links(kept)

    def _keep(self, name: str, link: int) -> None:
        if self._pins is not None:
            self._pins.keep_link(name, link)

    def guard(self, cgroup: str) -> None:
        """Attaches the network rules to one session's cgroup; idempotent.

        Raises OSError or KernelError.
        """
        if cgroup in self._guards:
            return
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        links = self._guards.setdefault(cgroup, [])
        try:
            for name in _CGROUP_PROGRAMS:
                links.append(self._programs[name].attach_cgroup(cgroup_fd))
        except KernelError:
            self.unguard(cgroup)
            raise
        finally:
            os.close(cgroup_fd)

    def unguard(self, cgroup: str) -> None:
        """Detaches the network rules from a cgroup."""
        for fd in self._guards.pop(cgroup, ()):
            os.close(fd)

    def watch_syscalls(self, wanted: bool) -> None:
        """Attaches or detaches the program on the system call path; idempotent."""
        if wanted and self._syscalls is None:
            dispatcher = self._programs[_SYSCALL_LINK]
            self._syscalls = dispatcher.attach_raw_tracepoint("sys_exit")
            self._keep(_SYSCALL_LINK, self._syscalls)
        elif not wanted and self._syscalls is not None:
            if self._pins is not None:
                self._pins.drop_link(_SYSCALL_LINK)
            os.close(self._syscalls)
            self._syscalls = None

    def close(self, *, leave: bool = False) -> None:
        """Detaches and unloads everything; with `leave`, all but what is pinned."""
        if not leave:
            self.watch_syscalls(wanted=False)
            if self._pins is not None:
                self._pins.remove()
        for cgroup in list(self._guards):
            self.unguard(cgroup)
        self.enforcer.close()
        for fd in self._always:
            os.close(fd)
        self._always.clear()
        for program in self._programs.values():
            os.close(program.fd)
        for bpf_map in self.maps.values():
            bpf_map.close()
        self._programs.clear()
        self.maps.clear()
