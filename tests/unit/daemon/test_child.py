"""When a process that ends is started again, and which of its ends are news."""

import pytest

from agentd.daemon.child import PATIENT, SOON, Child

STEADY_S = 10.1


class Scene:
    """One child, and the clock by which it is started again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("agentd.daemon.child.time.monotonic", lambda: self.now)

    def runs(self, child: Child, status: int = 1, lasts: float = 0.0) -> None:
        """A real process, that ends with `status` after `lasts` seconds of the clock."""
        child.start(["/bin/sh", "-c", f"exit {status}"], (), {})
        assert child.process is not None
        child.process.wait()
        self.now += lasts
        assert child.reap() == status

    def pause(self, child: Child) -> float:
        """How long it is until the child is due, to a tenth of a second; then it is."""
        begun = self.now
        while not child.due():
            self.now += 0.1
        return round(self.now - begun, 1)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def pauses(scene: Scene, child: Child, ends: int) -> list[float]:
    found = []
    for _ in range(ends):
        scene.runs(child)
        found.append(scene.pause(child))
    return found


def test_what_keeps_failing_is_started_ever_more_seldom(scene: Scene) -> None:
    found = pauses(scene, Child("patient", PATIENT), 7)
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] == pytest.approx(30, abs=0.2)
    assert sum(found[:3]) < 8 < sum(found[:4])


def test_what_others_wait_for_never_waits_longer_than_a_second(scene: Scene) -> None:
    assert max(pauses(scene, Child("soon"), 12)) == pytest.approx(SOON[-1], abs=0.2)
    assert SOON[-1] == 1.0


def test_after_a_steady_time_it_comes_back_at_once(scene: Scene) -> None:
    child = Child("patient", PATIENT)
    pauses(scene, child, 5)
    scene.runs(child, 75, lasts=STEADY_S)
    assert scene.pause(child) == 0


def test_an_end_is_news_unless_it_is_like_the_one_before(scene: Scene) -> None:
    child = Child("patient", PATIENT)
    news = []
    for status, lasts in ((1, 0), (1, 0), (75, 0), (75, 1), (75, STEADY_S), (75, 0)):
        scene.runs(child, status, lasts)
        news.append(not child.repeats)
    assert news == [True, False, True, False, True, False]
