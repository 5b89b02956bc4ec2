from dataclasses import dataclass

from agentd.daemon.pace import HOUSEKEEPING_NS, SOON_NS, Pace

MS = 1_000_000


@dataclass
class Engine:
    """What a pace asks: the rings, the journal, the rules and the clock."""

    now: int = 7_000 * HOUSEKEEPING_NS
    is_busy: bool = False
    put_off_ns: int = 0
    is_flowing: bool = False
    pending: bool = False
    decided: bool = False
    tells_soon: bool = False

    def busy(self) -> bool:
        return self.is_busy

    def puts_off(self) -> int:
        return self.put_off_ns

    def flowing(self) -> bool:
        return self.is_flowing


def paced() -> tuple[Engine, Pace]:
    """Just after a flush and the chores."""
    engine = Engine()
    pace = Pace(engine, engine, lambda: engine.tells_soon, 200, lambda: engine.now)
    assert pace.flush_is_due()
    assert pace.chores_due() == 7_000
    return engine, pace


def test_waits_for_the_chores_while_nothing_happens() -> None:
    engine, pace = paced()
    assert pace.wait_s() == HOUSEKEEPING_NS / 1e9
    engine.now += HOUSEKEEPING_NS - 1
    assert pace.chores_due() is None
    engine.now += 1
    assert pace.wait_s() == 0
    assert pace.chores_due() == 7_001
    assert pace.chores_due() is None


def test_looks_soon_at_records_that_should_not_wait() -> None:
    engine, pace = paced()
    engine.is_flowing = True
    assert pace.wait_s() == HOUSEKEEPING_NS / 1e9
    engine.tells_soon = True
    assert pace.wait_s() == SOON_NS / 1e9
    engine.is_busy = True
    assert pace.wait_s() == 0


def test_put_off_is_waited_for_whatever_else_is_due() -> None:
    engine, pace = paced()
    engine.is_flowing = engine.pending = engine.decided = True
    engine.now += 2 * HOUSEKEEPING_NS
    engine.put_off_ns = 12 * MS
    assert pace.wait_s() == 0.012


def test_flush_comes_sooner_for_a_decision() -> None:
    engine, pace = paced()
    engine.pending = True
    assert pace.wait_s() == 0.2
    engine.now += 30 * MS
    assert pace.wait_s() == 0.17
    engine.decided = True
    assert pace.wait_s() == 0.02
    assert not pace.flush_is_due()
    engine.now += 20 * MS
    assert pace.flush_is_due()
    assert not pace.flush_is_due()


def test_flush_that_wrote_nothing_is_not_tried_without_a_pause() -> None:
    engine, pace = paced()
    engine.pending = True
    engine.now += 200 * MS
    assert pace.wait_s() == 0
    assert pace.flush_is_due()
    assert pace.wait_s() == 0.05, "the chores come first"
