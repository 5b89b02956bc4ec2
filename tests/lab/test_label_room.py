"""A full map of labels refuses forks: no number of processes leads to one without a label."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.kernel import libbpf
from agentd.kernel.labelled import Labelled
from agentd.kernel.libbpf import BpfObject, Map
from agentd.kernel.wire import LABEL, U32
from agentd.workloads.procfs import read_process

pytestmark = pytest.mark.lab

OBJECTS = Path(libbpf.__file__).parent / "objects"
UNUSED = 1 << 23  # no process has such a number: pid_max is at most 1 << 22


@pytest.fixture
def labels() -> Iterator[Map]:
    """The map, with the two programs that keep labels through a fork attached."""
    shared: dict[str, Map] = {}
    open_fds = []
    for name, program, tracepoint in (
        ("attribution", "on_fork", "sched_process_fork"),
        ("lsm_tree", "on_task_alloc", ""),
    ):
        loaded = BpfObject(name, (OBJECTS / f"{name}.bpf.o").read_bytes(), shared)
        loaded.share_maps(shared)
        found = loaded.programs[program]
        open_fds.append(
            found.attach_raw_tracepoint(tracepoint) if tracepoint else found.attach_target()
        )
        open_fds += [each.fd for each in loaded.programs.values()]
        loaded.close()
    Labelled(shared["labelled"].fd).mark(os.getpid())
    yield shared["labels"]
    for fd in open_fds:
        os.close(fd)
    for bpf_map in shared.values():
        bpf_map.close()


def fork() -> int:
    """Fork a child that ends at once when its parent has looked at it; its pid."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    children.append((child, write))
    return child


children: list[tuple[int, int]] = []


def reap() -> None:
    for child, write in children:
        os.close(write)
        os.waitpid(child, 0)
    children.clear()


def test_a_fork_is_refused_when_there_is_no_room_for_its_label(labels: Map) -> None:
    own = read_process(os.getpid())
    assert own is not None
    labels.put(U32.pack(os.getpid()), LABEL.pack(own.key.start_ns, 1, 1, 0))
    try:
        child = fork()
        assert labels.get(U32.pack(child)) is not None
        reap()
        room = labels.max_entries - len(list(labels.keys()))
        for number in range(room):
            labels.put(U32.pack(UNUSED + number), LABEL.pack(0, 1, 1, 0))
        with pytest.raises(BlockingIOError):
            os.fork()
        labels.delete(U32.pack(UNUSED))
        child = fork()
        assert labels.get(U32.pack(child)) is not None
        with pytest.raises(BlockingIOError):
            os.fork()
    finally:
        labels.delete(U32.pack(os.getpid()))
        reap()
