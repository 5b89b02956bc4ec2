"""Polling is tried, and kept only where it makes a row of calls faster."""

from agentd.daemon.trial import BLOCK, SETTLING, STANDS, STANDS_MOST, PollingTrial

ROW_GAP_NS = 1_500_000
TRIED = SETTLING + BLOCK


class Calls:
    """A client that calls; a call takes so long without polling, and with it."""

    def __init__(self, without_ns: int, polling_ns: int) -> None:
        self.trial = PollingTrial(ROW_GAP_NS)
        self.now = 7_000_000_000
        self.without_ns, self.polling_ns = without_ns, polling_ns

    def run(self, calls: int, *, disturbed: bool = False) -> int:
        """How often was polled."""
        polled = 0
        for _ in range(calls):
            polls = self.trial.polls
            polled += polls
            if polls and disturbed:
                self.trial.disturbed()
            self.now += self.polling_ns if polls else self.without_ns
            self.trial.held(self.now)
        return polled


def test_the_faster_way_is_kept() -> None:
    calls = Calls(400_000, 200_000)
    assert calls.run(1 + TRIED) == 0
    assert calls.run(TRIED + STANDS) == TRIED + STANDS
    assert calls.run(TRIED) == 0, "then the other way is tried again"
    assert calls.run(STANDS) == STANDS


def test_what_is_not_clearly_faster_is_not_kept() -> None:
    calls = Calls(400_000, 390_000)
    calls.run(1 + TRIED)
    assert calls.run(TRIED) == TRIED
    assert calls.run(STANDS) == 0


def test_a_choice_stands_longer_each_time() -> None:
    calls = Calls(200_000, 400_000)
    calls.run(1 + TRIED)
    stood: list[int] = []
    while STANDS_MOST not in stood[:-1]:
        assert calls.run(TRIED) == TRIED
        stood.append(0)
        while not calls.trial.polls:
            calls.run(1)
            stood[-1] += 1
    assert stood[0] == STANDS
    assert stood == sorted(stood)
    assert stood[-1] == STANDS_MOST


def test_what_was_chosen_before_the_row_was_warm_is_chosen_anew() -> None:
    calls = Calls(400_000, 500_000)
    calls.run(1 + 2 * TRIED)
    calls.polling_ns = 200_000
    assert calls.run(STANDS) == 0
    assert calls.run(TRIED + STANDS) == TRIED + STANDS


def test_a_new_choice_is_soon_put_to_the_test() -> None:
    calls = Calls(200_000, 400_000)
    calls.run(1 + TRIED)
    calls.run(TRIED + STANDS)
    calls.run(TRIED)
    calls.without_ns = 900_000  # a bad spell, while both are compared
    calls.run(STANDS_MOST // 2)
    assert calls.run(TRIED) == TRIED
    calls.without_ns = 200_000
    assert calls.run(STANDS) == STANDS
    assert calls.run(TRIED + STANDS) == 0


def test_a_few_slow_calls_do_not_decide() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(1 + TRIED + SETTLING)
    for _ in range(BLOCK // 4):
        calls.now += 1_000_000
        calls.run(4)
    assert calls.run(STANDS) == STANDS


def test_single_calls_are_never_polled_for() -> None:
    calls = Calls(2 * ROW_GAP_NS, 200_000)
    assert calls.run(3 * TRIED) == 0


def test_after_a_pause_the_next_call_is_not_waited_for() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(1 + 2 * TRIED)
    calls.now += ROW_GAP_NS
    calls.trial.held(calls.now)
    assert calls.run(1) == 0
    assert calls.run(2) == 2


def test_beside_a_busy_program_it_is_given_up() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(1 + TRIED)
    assert calls.run(2 * SETTLING, disturbed=True) == SETTLING
    assert calls.run(STANDS - SETTLING - 1) == 0


def test_rare_disturbances_do_no_harm() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(1 + 2 * TRIED)
    turns = STANDS // 32 - 1
    polled = sum(calls.run(31) + calls.run(1, disturbed=True) for _ in range(turns))
    assert polled == 32 * turns
