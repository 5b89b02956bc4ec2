"""What labelled tasks have done is looked at where their system calls return.

There are two ways there. One hooks the function of each call that has a handler (fexit), which
costs other tasks a failed lookup a call. Where the kernel takes no such programs, or would leave
some of them out, it is the raw tracepoint `sys_exit`: that puts every system call of every task on
the slow path. Either is attached only while a session exists, the first for a while longer; calls
that open a file are hooked only where no LSM hook has seen them before (lsm_files.bpf.c).
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Final

from agentd.errors import AgentdError
from agentd.kernel import host
from agentd.kernel.compiled import compiled
from agentd.kernel.libbpf import BpfObject, KernelError, KernelFunctions, Map, Program
from agentd.kernel.pins import Pins
from agentd.kernel.wire import U32

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
        "preadv2": 327,
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
        "preadv2": 286,
        "pwritev2": 287,
        "openat2": 437,
        "pidfd_getfd": 438,
    },
}
"""System call numbers by machine (asm/unistd_64.h, asm-generic/unistd.h)."""

OBJECTS: Final = ("files", "changes", "sockets", "mcp")
"""Those with handlers, for either way."""
DISPATCHER: Final = "syscalls"
"""That which calls them from the raw tracepoint."""
_SYS_EXIT_LINK: Final = "on_sys_exit"
_SYS_EXIT_SECTION: Final = "raw_tp/sys_exit"
_RETURN_SECTIONS: Final = "fexit/"

HANDLERS: Final = {
    "after_read": ("read",),
    "after_readv": ("readv", "preadv2"),
    "after_recvfrom": ("recvfrom",),
    "after_recvmsg": ("recvmsg",),
    "after_open": ("open", "openat", "openat2", "creat", "open_by_handle_at"),
    "after_getfd": ("pidfd_getfd",),
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
WRITE_HANDLERS: Final = {"after_write": ("write", "writev", "pwritev2")}
"""Where writes are held: how much of each the channel has taken."""


def syscall_numbers() -> dict[str, int]:
    """The numbers of this machine. Raises AgentdError on an architecture that is not known."""
    try:
        return SYSCALLS[platform.machine()]
    except KeyError:
        raise AgentdError(
            f"agentd does not know the system calls of {platform.machine()}"
        ) from None


def _link_of(call: str) -> str:
    return f"on_{call}_return"


_PROBE: Final = _link_of("accept4")
LINGER_S: Final = 60.0
"""How long hooked functions stay so after the last session."""
LINKS: Final = {_SYS_EXIT_LINK} | {
    _link_of(call) for calls in (HANDLERS | WRITE_HANDLERS).values() for call in calls
}
"""Whatever may be attached here, by the name of its program."""
_OPENS: Final = {_link_of(call) for call in HANDLERS["after_open"]}


def load_for_returns(maps: dict[str, Map], functions: KernelFunctions) -> Iterator[BpfObject]:
    """OBJECTS for the first way, one after the other. Raises KernelError."""
    preempted = U32.pack(host.preemption() == host.LAZY)
    for name in OBJECTS:
        yield BpfObject(
            name,
            compiled(name),
            maps,
            without=_SYS_EXIT_SECTION,
            constants={".rodata.preemptible": preempted},
            exists=functions.__contains__,
        )


def load_for_sys_exit(maps: dict[str, Map]) -> Iterator[BpfObject]:
    """DISPATCHER and OBJECTS for the second way. Raises KernelError."""
    for name in (DISPATCHER, *OBJECTS):
        yield BpfObject(name, compiled(name), maps, without=_RETURN_SECTIONS)


class SystemCalls:
    """The handlers, loaded for one of the two ways, and their attachments."""

    def __init__(self) -> None:
        self.refusal = ""
        """Why it is not the first way; empty if it is."""
        self._programs: dict[str, Program] = {}
        self._wanted: set[str] = set()
        self._used: set[str] = set()
        self._links: dict[str, int] = {}
        self._unwanted_since: float | None = None

    def load(self, maps: dict[str, Map]) -> None:
        """Loads them for the first way that works; maps of `maps` are reused, new ones added.

        Raises KernelError with libbpf's own words.
        """
        self.refusal = self._load_for_returns(maps)
        if self.refusal:
            self._take(load_for_sys_exit(maps), maps)
            self._wanted.add(_SYS_EXIT_LINK)
        self._handle(HANDLERS, maps)

    def _load_for_returns(self, maps: dict[str, Map]) -> str:
        if host.preemption() == host.FULL:
            return "this kernel can be preempted anywhere, and would then leave programs out"
        try:
            functions = KernelFunctions()
            try:
                self._take(load_for_returns(maps, functions), maps)
            finally:
                functions.close()
            # The first one shows that they can be attached.
            self._links[_PROBE] = self._programs[_PROBE].attach_target()
            self._used.add(_PROBE)
        except KernelError as error:
            self.close()
            return str(error)
        return ""

    def _take(self, objects: Iterator[BpfObject], maps: dict[str, Map]) -> None:
        for loaded in objects:
            loaded.share_maps(maps)
            self._programs |= loaded.programs
            loaded.close()

    def _handle(self, handlers: Mapping[str, tuple[str, ...]], maps: Mapping[str, Map]) -> None:
        numbers = syscall_numbers()
        for program, calls in handlers.items():
            for call in calls:
                if not self.refusal and _link_of(call) in self._programs:
                    self._wanted.add(_link_of(call))
                elif self.refusal and call in numbers:
                    key, value = U32.pack(numbers[call]), U32.pack(self._programs[program].fd)
                    maps["syscall_handlers"].put(key, value)

    def handle_writes(self, maps: Mapping[str, Map]) -> None:
        """Looks at writes as well; before the first `watch`."""
        self._handle(WRITE_HANDLERS, maps)

    def watch(self, pins: Pins | None, *, opens: bool = True) -> None:
        """Attaches; idempotent. What is pinned of an earlier daemon goes on until its turn.

        Without `opens` none is for calls that open a file; `tick` detaches those there are.
        """
        self._unwanted_since = None
        self._used = self._wanted if opens else self._wanted - _OPENS
        for name in self._used:
            program = self._programs[name]
            if name in self._links:
                continue
            if name == _SYS_EXIT_LINK:
                self._links[name] = program.attach_raw_tracepoint("sys_exit")
            else:
                self._links[name] = program.attach_target()
        if pins is not None:
            for name, link in self._links.items():
                pins.keep_link(name, link)
            for name in LINKS - self._links.keys():
                pins.drop_link(name)

    def unwatch(self, pins: Pins | None) -> None:
        """Detaches, if that takes no time; else `tick` does, unless a session comes soon."""
        if pins is not None:
            for name in LINKS - self._links.keys():
                pins.drop_link(name)
        if self.refusal:
            self._detach(_SYS_EXIT_LINK, pins)
        elif self._unwanted_since is None:
            self._unwanted_since = time.monotonic()

    def tick(self, pins: Pins | None) -> None:
        """Detaches one more of what is not wanted now, or by no session for a while.

        To be called now and then: each takes the kernel a grace period of about 0.15 s.
        """
        since = self._unwanted_since
        if since is not None and time.monotonic() - since > LINGER_S:
            self._used = set()
        unused = self._links.keys() - self._used
        if unused:
            self._detach(unused.pop(), pins)

    def _detach(self, name: str, pins: Pins | None) -> None:
        if pins is not None:
            pins.drop_link(name)
        link = self._links.pop(name, None)
        if link is not None:
            os.close(link)

    def close(self) -> None:
        """Detaches what is not pinned, and unloads."""
        for link in self._links.values():
            os.close(link)
        self._links.clear()
        for program in self._programs.values():
            os.close(program.fd)
        self._programs.clear()
