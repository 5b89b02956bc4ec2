"""A process that is gone is dropped only once its last records are taken in."""

from types import SimpleNamespace
from typing import Any, cast

from agentd.daemon.unheard import Unheard
from agentd.workloads.identity import ProcessKey

GONE = ProcessKey(10, 1)


class Ring:
    """The place of `Dispatch`: how much was told, how much of it is taken in."""

    def __init__(self) -> None:
        self.produced = self.position = 0

    def told(self) -> int:
        return self.produced

    def past(self, told: int) -> bool:
        return self.position >= told


def test_its_records_come_first() -> None:
    ring = Ring()
    dropped: list[set[ProcessKey]] = []
    labelling = SimpleNamespace(registry=SimpleNamespace(gone=lambda: {GONE}), reap=dropped.append)
    nothing = cast("Any", None)
    unheard = Unheard(nothing, cast("Any", labelling), cast("Any", ring), nothing, nothing)
    unheard.reap()
    ring.produced = 3000
    unheard.look()
    ring.position, ring.produced = 2048, 9000
    unheard.reap()
    unheard.look()  # does not start anew: others may keep the ring filled for ever
    assert not dropped
    ring.position = 3000
    unheard.reap()
    unheard.reap()
    assert dropped == [{GONE}]
