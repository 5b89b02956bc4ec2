"""Discovery of real processes of this test's own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentd.workloads.discovery import Assign, Found, adopt, discover
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.processes import ProcessTable
from agentd.workloads.procfs import current_key, read_process
from agentd.workloads.selectors import Selectors
from agentd.workloads.sessions import Session, SessionRegistry
from tests.unit.workloads.declared import workload

# A tree of three: says their pids, then lives until its standard input ends.
TREE = """
import os, subprocess, sys
program = [sys.executable, "-S", "-E", "-c", "import sys; print(0, flush=True); sys.stdin.read()"]
inner = "import os, subprocess, sys; p = subprocess.Popen(%r, stdout=subprocess.PIPE); \
p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read()" % program
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", inner], stdout=subprocess.PIPE)
print(child.pid, int(child.stdout.readline()), flush=True)
sys.stdin.read()
"""


class Tree:
    """A process, its child and its grandchild."""

    def __init__(self, mark: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", TREE, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        below = self.process.stdout.readline().split()
        self.pids = [self.process.pid, *map(int, below)]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.read()  # until the grandchild has gone too
        self.process.stdout.close()


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree("mark-of-the-tree")
    yield made
    made.close()


def labeller(registry: SessionRegistry, then: Callable[[], None] = lambda: None) -> Assign:
    def assign(info: ProcessInfo, name: str, session: Session | None) -> Session:
        if session is None:
            session = registry.create(
                name, info.key, uid=info.uid, started_ns=0, posture="observe", on_failure="deny"
            )
        registry.add_process(session, info.key)
        then()
        return session

    return assign


def selecting(**select: Any) -> Selectors:
    return Selectors([workload({"name": "w", "select": [select]})])


BY_MARK = {"argv": ["mark-of-the-tree"]}


def summary(found: list[Found]) -> list[tuple[int, bool]]:
    return [(each.info.key.tgid, each.inherited) for each in found]


def test_labels_are_inherited_down_the_tree(tree: Tree) -> None:
    table, registry = ProcessTable(), SessionRegistry("boot")
    found = discover(selecting(**BY_MARK), labeller(registry), table=table, registry=registry)
    assert summary(found) == [(tree.pids[0], False), (tree.pids[1], True), (tree.pids[2], True)]
    assert len(registry) == 1
    assert {each.info.session for each in found} == {found[0].session.number}
    assert [pid for pid, _ in found[2].info.ancestry[:2]] == [tree.pids[1], tree.pids[0]]
    own = table.by_pid(os.getpid())
    assert own is not None
    assert own.session is None


def test_by_ancestor(tree: Tree) -> None:
    registry = SessionRegistry("boot")
    me = read_process(os.getpid())
    assert me is not None
    chosen = selecting(ancestor=me.exe, argv=["*stdin.read*"])
    found = discover(chosen, labeller(registry), table=ProcessTable(), registry=registry)
    assert tree.pids[0] in [pid for pid, inherited in summary(found) if not inherited]


def test_a_process_forked_during_the_walk_is_not_lost(tree: Tree) -> None:
    table, registry = ProcessTable(), SessionRegistry("boot")
    late: list[Tree] = []

    def start_another() -> None:
        if not late:
            late.append(Tree("mark-of-the-tree"))

    assign = labeller(registry, start_another)
    found = discover(selecting(**BY_MARK), assign, table=table, registry=registry)
    late[0].close()
    assert set(tree.pids + late[0].pids) == {pid for pid, _ in summary(found)}
    assert len(registry) == 2


def test_exempt_processes(tree: Tree) -> None:
    registry = SessionRegistry("boot")
    found = discover(
        selecting(argv=["*"]),
        labeller(registry),
        table=ProcessTable(),
        registry=registry,
        own=[tree.pids[0]],
    )
    labelled = {pid for pid, _ in summary(found)}
    assert not labelled & {1, os.getpid(), tree.pids[0]}
    assert set(tree.pids[1:]) <= labelled


def test_known_sessions_are_kept_over_a_restart(tree: Tree) -> None:
    registry = SessionRegistry("boot")
    discover(selecting(**BY_MARK), labeller(registry), table=ProcessTable(), registry=registry)
    restored = SessionRegistry.from_state(registry.to_state(), "boot")
    restored.remove_process(_key(tree.pids[2]))  # as if it had been forked meanwhile
    assert restored.gone() == set()
    found = discover(Selectors([]), labeller(restored), table=ProcessTable(), registry=restored)
    assert {pid for pid, _ in summary(found)} == set(tree.pids)
    assert [session.id for session in restored] == [session.id for session in registry]


def _key(pid: int) -> Any:
    key = current_key(pid)
    assert key is not None
    return key


def test_adoption_takes_the_existing_tree_below(tree: Tree) -> None:
    table, registry = ProcessTable(), SessionRegistry("boot")
    found = adopt(tree.pids[1], "w", labeller(registry), table=table, registry=registry)
    assert summary(found) == [(tree.pids[1], False), (tree.pids[2], True)]
    again = adopt(tree.pids[1], "v", labeller(registry), table=table, registry=registry)
    assert {each.session.id for each in again} == {found[0].session.id}


def test_what_may_not_be_adopted(tree: Tree) -> None:
    registry = SessionRegistry("boot")
    assign = labeller(registry)
    for pid in (1, 2, os.getpid(), tree.pids[0], 2**22 + 1):
        own = tree.pids[:1]
        assert adopt(pid, "w", assign, table=ProcessTable(), registry=registry, own=own) == []
    assert len(registry) == 0
