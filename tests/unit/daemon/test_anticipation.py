"""Where polling takes no CPU that a client and its server could use; what a write tells."""

import os
import select
import time

import pytest

from agentd.daemon import anticipation as module
from agentd.daemon.anticipation import Anticipation, leaves_room
from agentd.daemon.trial import STANDS
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import HOLD, HOLD_READ


@pytest.mark.parametrize(
    ("allowed", "wanted", "room"),
    [
        ({0, 1}, {0, 1}, False),
        ({0, 1}, {0}, True),
        ({0, 1, 2}, {0, 1, 2}, True),
        ({0}, {0}, False),
        ({0}, {1}, True),
        ({1}, {0, 1}, False),
    ],
)
def test_a_cpu_is_left(allowed: set[int], wanted: set[int], room: bool) -> None:
    assert leaves_room(allowed, wanted) == room


def test_a_write_that_has_been_read_already_is_told_once() -> None:
    reader, writer = os.pipe()
    anticipation = Anticipation(lambda: False, lambda: None, linger_us=1500)
    nothing = HoldValue(*HOLD.unpack(bytes(HOLD.size)))
    me = os.getpid()
    anticipation.judged(nothing._replace(kind=HOLD_READ, tgid=me, tid=me, fd=reader, ino=1))
    with select.epoll() as engine:
        engine.register(anticipation.fileno(), select.EPOLLIN | select.EPOLLET)
        engine.poll(0)
        assert engine.poll(0) == []
        os.write(writer, b"a")
        assert os.read(reader, 1) == b"a"
        assert engine.poll(0)
        assert engine.poll(0) == []
    os.close(reader)
    os.close(writer)


def test_without_room_it_polls_while_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "leaves_room", lambda _allowed, _wanted: False)
    waiting: list[bool] = [True]
    anticipation = Anticipation(lambda: bool(waiting), waiting.pop, linger_us=10_000)
    hold = HoldValue(*HOLD.unpack(bytes(HOLD.size)))._replace(tid=os.getpid())

    def judged_by_polling(holds: int) -> bool:
        for _ in range(holds):
            anticipation.judged(hold)
        waiting[:] = [True]
        anticipation.stay(time.monotonic_ns() + 1_000_000_000)
        return not waiting

    assert not judged_by_polling(1)
    assert not judged_by_polling(STANDS - 1)
    assert judged_by_polling(1)


def test_affinity_is_not_asked_for_at_each_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    anticipation = Anticipation(lambda: False, lambda: None, linger_us=10_000)
    asked: list[int] = []

    def affinity(tid: int) -> set[int]:
        asked.append(tid)
        return {0}

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    hold = HoldValue(*HOLD.unpack(bytes(HOLD.size)))
    for _ in range(100):
        anticipation.judged(hold._replace(tid=1))
    assert 1 <= len(asked) < 10, "again after 0.1 s"
    anticipation.judged(hold._replace(tid=2))
    assert asked[-1] == 2, "another thread may have other CPUs"
