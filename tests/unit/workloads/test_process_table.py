"""The process table against a plain model, over random histories of a small pid space."""

from dataclasses import dataclass, field

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.workloads.identity import (
    ANCESTRY_MAX,
    TICK_NS,
    ProcessInfo,
    ProcessKey,
    bounded_argv,
    same_start,
)
from agentd.workloads.processes import ProcessTable

PIDS = range(100, 112)


@dataclass
class Modelled:
    key: ProcessKey
    label: int | None
    lineage: list[int]
    exe: str


@dataclass
class Model:
    """What must be true, kept the slow way."""

    live: dict[int, Modelled] = field(default_factory=dict)
    exited: list[Modelled] = field(default_factory=list)


def root(pid: int, start_ns: int) -> ProcessInfo:
    return ProcessInfo(ProcessKey(pid, start_ns), 1, None, 0, 0, "/sbin/x", ("x",), "x")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fork", "fork", "fork", "exec", "exit", "label", "lost-exit", "add"]),
        st.integers(0, 11),
        st.integers(0, 11),
        st.integers(TICK_NS, 3 * TICK_NS),
    ),
    max_size=120,
)


def play(steps: list[tuple[str, int, int, int]], table: ProcessTable, model: Model) -> int:
    """Play a history on both; returns the time at its end."""
    now = 1
    labels = 0
    for what, one, other, passed in steps:
        now += passed
        pid, chosen = PIDS[one], model.live.get(PIDS[other])
        if what == "add" and pid not in model.live:
            table.add(root(pid, now))
            model.live[pid] = Modelled(ProcessKey(pid, now), None, [], "/sbin/x")
        elif chosen is None:
            continue
        elif what == "fork" and pid not in model.live:
            key = ProcessKey(pid, now)
            table.fork(chosen.key, key)
            lineage = [chosen.key.tgid, *chosen.lineage][:ANCESTRY_MAX]
            model.live[pid] = Modelled(key, chosen.label, lineage, chosen.exe)
        elif what == "exec":
            chosen.exe = f"/bin/{now}"
            table.exec(chosen.key, chosen.exe, (chosen.exe,), "c")
        elif what == "label" and chosen.label is None:
            labels += 1
            chosen.label = labels
            info = table.get(chosen.key)
            assert info is not None
            info.session = labels
        elif what == "exit":
            table.exit(chosen.key, now)
            model.exited.append(model.live.pop(chosen.key.tgid))
        elif what == "lost-exit":  # the pid may be given away with no record of the end
            model.exited.append(model.live.pop(chosen.key.tgid))
    return now


@settings(max_examples=300)
@given(STEPS)
def test_labels_follow_forks_and_nothing_else(steps: list[tuple[str, int, int, int]]) -> None:
    table, model = ProcessTable(), Model()
    play(steps, table, model)
    for process in model.live.values():
        info = table.get(process.key)
        assert info is not None
        assert info is table.by_pid(process.key.tgid)
        assert (info.session, info.exe) == (process.label, process.exe)
        assert [pid for pid, _ in info.ancestry] == process.lineage
        rough = ProcessKey(process.key.tgid, process.key.start_ns // TICK_NS * TICK_NS)
        assert table.get(rough) is info
        assert table.find(*process.key) is table.find(*rough) is info
        shown = orjson.loads(orjson.dumps(info.fragment))
        assert (shown["pid"], shown["start"], shown["exe"]) == (*process.key, process.exe)
        assert [up["pid"] for up in shown["ancestry"]] == process.lineage
    for process in model.exited:  # pid reuse: the old key never yields the new process
        info = table.get(process.key)
        assert info is table.find(*process.key)
        assert info is None or (info.key, info.session) == (process.key, process.label)


@settings(max_examples=200)
@given(STEPS)
def test_links_are_sound_after_any_history(steps: list[tuple[str, int, int, int]]) -> None:
    table, model = ProcessTable(), Model()
    now = play(steps, table, model)
    alive = {process.key for process in model.live.values()}
    gone = table.sweep(now, lambda key, _: key in alive)
    assert not {info.key for info in gone} & alive
    assert {info.key for info in table} == alive
    for info in table:
        if info.parent is not None:
            parent = table.get(info.parent)
            assert parent is not None
            assert parent.exited_ns is None
            assert info.key in parent.children
        assert info.children <= alive
        below = table.descendants(info)
        assert info not in below
        assert all(info in table.ancestors(child) for child in below)
    rows = table.tree(alive)
    assert sorted(info.key for _, info in rows) == sorted(alive)
    for depth, info in rows:
        assert depth == len(list(table.ancestors(info)))
    table.expire(now + 10**12)
    for process in model.exited:
        assert table.get(process.key) is None


def test_reparented_grandchildren_stay_descendants() -> None:
    table = ProcessTable()
    top = table.add(root(100, 1))
    middle = table.fork(top.key, ProcessKey(101, 2))
    leaf = table.fork(middle.key, ProcessKey(102, 3))
    table.exit(middle.key, 4)
    assert table.descendants(top) == [leaf]
    assert leaf.parent == top.key
    assert leaf.ancestry == ((101, "/sbin/x"), (100, "/sbin/x"))
    late = table.fork(middle.key, ProcessKey(103, 4))  # its record came after that of the exit
    assert late.parent == top.key


def test_an_exec_shows_in_the_ancestry_of_existing_children() -> None:
    table = ProcessTable()
    top = table.add(root(100, 1))
    leaf = table.fork(table.fork(top.key, ProcessKey(101, 2)).key, ProcessKey(102, 3))
    assert b"/bin/new" not in orjson.dumps(leaf.fragment)
    table.exec(top.key, "/bin/new", ("new",), "new")
    assert leaf.ancestry == ((101, "/sbin/x"), (100, "/bin/new"))
    assert b"/bin/new" in orjson.dumps(leaf.fragment)


def test_a_fork_record_labels_a_process_that_was_read_before_it_came() -> None:
    table = ProcessTable()
    top = table.add(root(100, 1))
    top.session = 7
    child = table.add(root(101, 5 * TICK_NS))
    assert child.session is None
    assert table.fork(top.key, ProcessKey(101, 5 * TICK_NS + 77)) is child
    assert child.session == 7


def test_reading_a_known_process_again() -> None:
    table = ProcessTable()
    known = table.add(root(100, 1))
    again = root(100, 1)
    again.exe, again.argv = "/usr/bin/claude", ("claude",)
    assert table.add(again) is known
    assert known.exe == "/usr/bin/claude"
    assert b"claude" in orjson.dumps(known.fragment)
    known.session = 3
    forged = root(100, 1)
    forged.exe, forged.argv = "/usr/bin/claude", ("innocent",)
    assert table.add(forged).argv == ("claude",)


def test_a_pid_given_away_again_names_two_processes() -> None:
    table = ProcessTable()
    old = table.add(root(100, 5))
    table.exit(old.key, 9)
    new = table.add(root(100, 50 * TICK_NS + 1))
    for look in (lambda *key: table.get(ProcessKey(*key)), table.find):
        assert look(100, 5) is old
        assert look(100, 50 * TICK_NS + 1) is new
        assert look(100, 50 * TICK_NS) is new  # as /proc knows it
        assert look(100, 70 * TICK_NS) is None


def test_unknown_processes() -> None:
    table = ProcessTable()
    child = table.fork(ProcessKey(1, 1), ProcessKey(2, 2))
    assert (child.ppid, child.parent, child.session) == (1, None, None)
    assert table.exec(ProcessKey(3, 3), "/x", ("x",), "x").exe == "/x"
    assert table.exit(ProcessKey(4, 4), 5) is None


def test_exited_processes_are_bounded() -> None:
    table = ProcessTable(exited_max=10)
    for pid in range(100):
        table.add(root(pid, pid))
        table.exit(ProcessKey(pid, pid), 1000)
    assert sum(table.get(ProcessKey(pid, pid)) is not None for pid in range(100)) == 10


def test_argv_is_bounded() -> None:
    assert bounded_argv(b"") == ()
    assert bounded_argv(b"a\0\0b\0") == ("a", "", "b")
    assert bounded_argv(b"\xff\0") == ("\\xff",)
    assert bounded_argv(b"x" * 5000) == ("x" * 1024,)
    assert len(bounded_argv(b"a\0" * 100)) == 32


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_same_start(one: int, other: int) -> None:
    exact = ProcessKey(1, one), ProcessKey(1, other)
    rough = ProcessKey(1, one // TICK_NS * TICK_NS)
    assert same_start(exact[0], rough)
    assert not same_start(exact[0], ProcessKey(2, one))
    if one % TICK_NS and other % TICK_NS:
        assert same_start(*exact) == (one == other)
