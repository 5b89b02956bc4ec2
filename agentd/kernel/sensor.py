"""Loads the BPF objects and attaches them: what the supervisor owns.

The attachments are file descriptors of the process that calls `Sensor.load`, so they live and
die with it, not with the engine that consumes the rings.
"""

import os
from typing import Final

from agentd.kernel.compiled import FOLDER, compiled
from agentd.kernel.enforcer import Enforcer
from agentd.kernel.labelled import Labelled
from agentd.kernel.libbpf import BpfObject, KernelError, Map, Program, trim_heap
from agentd.kernel.pins import Pins
from agentd.kernel.syscalls import LINKS, SystemCalls
from agentd.kernel.tier import OBSERVE

OBJECTS: Final = ("attribution", "exec", "network")

_RAW_TRACEPOINTS: Final = {
    "on_fork": "sched_process_fork",
    "on_exit": "sched_process_exit",
    "on_exec": "sched_process_exec",
}
_CGROUP_PROGRAMS: Final = ("on_connect4", "on_connect6", "on_sendmsg4", "on_sendmsg6")


class Sensor:
    """The loaded programs of the observe tier, their shared maps and their attachments."""

    def __init__(self) -> None:
        self.maps: dict[str, Map] = {}
        self._programs: dict[str, Program] = {}
        self._always: list[int] = []
        self._guards: dict[str, list[int]] = {}
        self._pins: Pins | None = None
        self.syscalls = SystemCalls()
        self.enforcer = Enforcer()

    def load(self, left: dict[str, Map] | None = None) -> None:
        """Loads every object. Raises KernelError with libbpf's own words.

        `left`: pinned maps of an earlier daemon, to go on with.
        """
        self.maps |= left or {}
        for name in OBJECTS:
            loaded = BpfObject(name, compiled(name), self.maps)
            loaded.share_maps(self.maps)
            self._programs |= loaded.programs
            loaded.close()
        self.syscalls.load(self.maps)
        trim_heap()

    def enforce(self, tier: str) -> None:
        """Loads the LSM programs: those of a tier, or of the best one ("auto")."""
        self.enforcer.load(tier, FOLDER, self.maps)
        if self.enforcer.families["mcp"] != OBSERVE:
            self.syscalls.handle_writes(self.maps)

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
        kept = set(LINKS)
        for name, tracepoint in _RAW_TRACEPOINTS.items():
            link = self._programs[name].attach_raw_tracepoint(tracepoint)
            self._always.append(link)
            self._keep(name, link)
            kept.add(name)
        Labelled(self.maps["labelled"].fd).mark_all(self.maps["labels"])
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

    def watch_syscalls(self, wanted: bool, *, opens: bool = True) -> None:
        """Attaches or detaches what sees the end of system calls; idempotent.

        `opens`: also of those that open a file, if they can be told apart.
        """
        if wanted:
            self.syscalls.watch(self._pins, opens=opens)
        else:
            self.syscalls.unwatch(self._pins)

    def tick(self) -> None:
        """Goes on with what takes long; to be called now and then."""
        self.syscalls.tick(self._pins)

    def close(self, *, leave: bool = False) -> None:
        """Detaches and unloads everything; with `leave`, all but what is pinned."""
        if not leave and self._pins is not None:
            self._pins.remove()
        for cgroup in list(self._guards):
            self.unguard(cgroup)
        self.enforcer.close()
        self.syscalls.close()
        for fd in self._always:
            os.close(fd)
        self._always.clear()
        for program in self._programs.values():
            os.close(program.fd)
        for bpf_map in self.maps.values():
            bpf_map.close()
        self._programs.clear()
        self.maps.clear()
