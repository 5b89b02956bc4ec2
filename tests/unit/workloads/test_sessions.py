import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.workloads.identity import TICK_NS, ProcessKey
from agentd.workloads.sessions import Session, SessionError, SessionRegistry, new_session_id


def create(
    registry: SessionRegistry, root: ProcessKey, workload: str = "w", **more: Any
) -> Session:
    return registry.create(
        workload, root, uid=0, started_ns=1, posture="enforce", on_failure="deny", **more
    )


def test_ids() -> None:
    assert re.fullmatch(r"s-[a-z2-7]{8}", new_session_id())


def test_a_session_ends_with_its_last_process() -> None:
    registry = SessionRegistry("boot")
    one, two = ProcessKey(10, 1), ProcessKey(11, 2)
    session = create(registry, one)
    registry.add_process(session, two)
    assert registry.by_process(two) is registry.by_id(session.id) is session
    assert registry.remove_process(one) is None
    assert registry.remove_process(one) is None
    assert registry.remove_process(two) is session
    assert registry.by_number(session.number) is None
    assert len(registry) == 0
    assert create(registry, one).number == session.number + 1


def test_pid_reuse_gives_nothing() -> None:
    registry = SessionRegistry("boot")
    session = create(registry, ProcessKey(10, 1))
    other = ProcessKey(10, 5 * TICK_NS + 3)
    assert registry.by_process(other) is None
    assert registry.remove_process(other) is None
    assert session.processes == {ProcessKey(10, 1)}


def test_keys_from_proc_find_the_process() -> None:
    registry = SessionRegistry("boot")
    session = create(registry, ProcessKey(10, 7 * TICK_NS))
    exact = ProcessKey(10, 7 * TICK_NS + 123)
    assert registry.by_process(exact) is session
    assert registry.remove_process(exact) is session


def test_a_session_cannot_be_left() -> None:
    registry = SessionRegistry("boot")
    root = ProcessKey(10, 1)
    session = create(registry, root)
    with pytest.raises(SessionError, match=session.id):
        create(registry, root, "another")
    other = create(registry, ProcessKey(11, 1))
    assert registry.add_process(other, root) is session


def test_state_survives_a_restart_and_not_a_boot() -> None:
    registry = SessionRegistry("boot")
    session = create(registry, ProcessKey(10, 1), task={"objective": "o"}, cgroup="/agentd/x")
    session.labels.add("read:secret")
    registry.workload_number("v")
    state = json.loads(json.dumps(registry.to_state()))
    again = SessionRegistry.from_state(state, "boot")
    assert again.to_state() == registry.to_state()
    restored = again.by_process(ProcessKey(10, 1))
    assert restored is not None
    assert restored.has("read:secret")
    assert again.workload_number("v") == 2
    assert again.workload_name(2) == "v"
    assert create(again, ProcessKey(11, 1)).number == session.number + 1
    assert len(SessionRegistry.from_state(state, "next boot")) == 0
    assert len(SessionRegistry.from_state(None, "boot")) == 0


def test_workload_numbers_run_out() -> None:
    registry = SessionRegistry("boot")
    for number in range(255):
        assert registry.workload_number(str(number)) == number + 1
    with pytest.raises(SessionError):
        registry.workload_number("one more")


def among(*keys: ProcessKey) -> Callable[[ProcessKey, int], bool]:
    return lambda key, _: key in keys


def test_sweep_ends_sessions_whose_exits_were_lost() -> None:
    registry = SessionRegistry("boot")
    stale, fresh = ProcessKey(10, 1), ProcessKey(10, 9 * TICK_NS + 1)
    old = create(registry, stale)
    new = create(registry, fresh)
    assert registry.sweep(registry.gone(among(fresh))) == [old]
    assert registry.by_process(fresh) is new


@given(st.lists(st.tuples(st.sampled_from("cjr"), st.integers(0, 5), st.integers(0, 3))))
def test_every_process_is_in_one_session_at_most(steps: list[tuple[str, int, int]]) -> None:
    registry = SessionRegistry("boot")
    expected: dict[ProcessKey, str] = {}
    for what, pid, which in steps:
        key = ProcessKey(pid, 1)
        sessions = list(registry)
        if what == "c" and key not in expected:
            expected[key] = create(registry, key).id
        elif what == "j" and sessions:
            session = registry.add_process(sessions[which % len(sessions)], key)
            expected.setdefault(key, session.id)
            assert session.id == expected[key]
        elif what == "r":
            ended = registry.remove_process(key)
            session_id = expected.pop(key, None)
            assert (ended is not None) == (
                session_id is not None and session_id not in expected.values()
            )
    assert {key: s.id for s in registry for key in s.processes} == expected
