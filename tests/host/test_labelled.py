"""The bytes that are looked at before labels: they never hide a label, and go with the process."""

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest

from agentd.kernel.compiled import compiled
from agentd.kernel.labelled import Labelled
from agentd.kernel.libbpf import BpfObject, Map
from agentd.kernel.wire import LABEL, U32
from agentd.workloads.procfs import read_process

pytestmark = pytest.mark.host
CLONE3 = 435  # asm-generic/unistd.h
CLONE_ARGS = 88


@pytest.fixture
def maps() -> Iterator[dict[str, Map]]:
    """With the programs attached that keep labels through fork and exit."""
    shared: dict[str, Map] = {}
    loaded = BpfObject("attribution", compiled("attribution"), shared)
    loaded.share_maps(shared)
    programs = loaded.programs
    loaded.close()
    links = [
        programs["on_fork"].attach_raw_tracepoint("sched_process_fork"),
        programs["on_exit"].attach_raw_tracepoint("sched_process_exit"),
    ]
    yield shared
    for fd in (*links, *(program.fd for program in programs.values())):
        os.close(fd)
    for bpf_map in shared.values():
        bpf_map.close()


def byte(maps: dict[str, Map], tgid: int) -> int:
    bytes_ = mmap.mmap(maps["labelled"].fd, 1 << 22, mmap.MAP_SHARED, mmap.PROT_READ)
    with bytes_:
        return bytes_[tgid]


def has_label(maps: dict[str, Map], tgid: int) -> bool:
    return maps["labels"].get(U32.pack(tgid)) is not None


class Child:
    """A process that ends when it is told to. With `number`, it gets that one."""

    def __init__(self, number: int | None = None) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork() if number is None else clone_as(number)
        if self.pid == 0:
            os.close(self._write)
            os.read(read, 1)
            os._exit(0)
        os.close(read)

    def end(self) -> None:
        os.close(self._write)
        os.waitpid(self.pid, 0)


def clone_as(number: int) -> int:
    """fork(2) of a child with this number, which must be free (clone3, set_tid)."""
    ids = (ctypes.c_int32 * 1)(number)
    args = (ctypes.c_uint64 * (CLONE_ARGS // 8))(*[0] * 4, 17, *[0] * 3, ctypes.addressof(ids), 1)
    pid = int(ctypes.CDLL(None, use_errno=True).syscall(CLONE3, args, CLONE_ARGS))
    assert pid in (0, number), os.strerror(ctypes.get_errno())
    return pid


@pytest.fixture
def label() -> bytes:
    own = read_process(os.getpid())
    assert own is not None
    return LABEL.pack(own.key.start_ns, 1, 1, 0)


def test_a_label_counts_when_it_is_marked(maps: dict[str, Map], label: bytes) -> None:
    """Also one that an earlier daemon has left. What is inherited is marked by the kernel."""
    own = os.getpid()
    maps["labels"].put(U32.pack(own), label)
    try:
        child = Child()
        assert not has_label(maps, child.pid)
        child.end()
        Labelled(maps["labelled"].fd).mark_all(maps["labels"])
        assert byte(maps, own) == 1
        child = Child()
        assert has_label(maps, child.pid)
        assert byte(maps, child.pid) == 1
        child.end()
        assert not has_label(maps, child.pid)
        assert byte(maps, child.pid) == 0
    finally:
        maps["labels"].delete(U32.pack(own))


def test_a_label_that_came_too_late_is_nobody_elses(maps: dict[str, Map], label: bytes) -> None:
    """Given when its process had just ended: whoever gets the number does not have it."""
    child = Child()
    child.end()
    maps["labels"].put(U32.pack(child.pid), label)
    Labelled(maps["labelled"].fd).mark(child.pid)
    other = Child(child.pid)
    assert not has_label(maps, other.pid)
    assert byte(maps, other.pid) == 0
    other.end()
