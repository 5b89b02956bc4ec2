"""An engine that hangs is told from one that beats, and from a machine that stood still."""

import pytest

from agentd.daemon.watchdog import EVERY_S, LOOKS, Watchdog


class Scene:
    """A clock and a beat that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.beat = 1
        monkeypatch.setattr("agentd.daemon.watchdog.time.monotonic", lambda: self.now)
        self.dog = Watchdog(lambda: self.beat)

    def look(self, after: float = EVERY_S) -> bool:
        self.now += after
        return self.dog.bites()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_it_bites_after_ten_looks_without_a_beat(scene: Scene) -> None:
    assert [scene.look() for _ in range(LOOKS)] == [False] * (LOOKS - 1) + [True]


def test_a_beat_begins_the_count_anew(scene: Scene) -> None:
    for _ in range(LOOKS - 1):
        assert not scene.look()
    scene.beat += 1
    assert not any(scene.look() for _ in range(LOOKS))
    assert scene.look()


def test_looks_in_quick_succession_count_once(scene: Scene) -> None:
    assert not any(scene.look(EVERY_S / 100) for _ in range(50 * LOOKS))


def test_a_machine_that_stood_still_is_no_reason(scene: Scene) -> None:
    assert not scene.look(3600.0)
    scene.beat += 1
    assert not scene.look()
