"""Polling is tried, and kept only where it makes a row of calls faster."""

from agentd.daemon.trial import BLOCK, GLANCE, SETTLING, STANDS, STANDS_MOST, PollingTrial

ROW_GAP_NS = 1_500_000
TRIED = SETTLING + BLOCK
GLANCED = SETTLING // 2 + GLANCE
"""Calls of a trial that ends early."""
FIRST = 1 + STANDS
"""Calls before the first trial: the first of a row has no time."""


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
    assert calls.run(FIRST) == 0
    assert calls.run(TRIED) == TRIED
    assert calls.run(TRIED) == 0, "the way before is looked at again"
    assert calls.run(STANDS) == STANDS
    assert calls.run(GLANCED) == 0, "then the other way is tried again, and is much worse"
    assert calls.run(STANDS) == STANDS


def test_what_is_not_clearly_faster_is_not_kept() -> None:
    calls = Calls(400_000, 390_000)
    calls.run(FIRST)
    assert calls.run(TRIED) == TRIED
    assert calls.run(TRIED + STANDS // 2) == 0


def test_without_polling_as_fast_is_better() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(FIRST + 2 * TRIED)
    calls.polling_ns = 390_000
    assert calls.run(STANDS) == STANDS
    assert calls.run(TRIED) == 0
    assert calls.run(TRIED) == TRIED, "the way before is looked at again"
    assert calls.run(STANDS) == 0


def test_a_much_worse_way_is_not_tried_to_the_end() -> None:
    calls = Calls(400_000, 500_000)
    calls.run(FIRST)
    assert calls.run(STANDS) == GLANCED


def test_a_choice_stands_longer_each_time() -> None:
    calls = Calls(200_000, 400_000)
    calls.run(FIRST)
    stood: list[int] = []
    while STANDS_MOST not in stood[:-1]:
        while calls.trial.polls:
            calls.run(1)
        stood.append(0)
        while not calls.trial.polls:
            calls.run(1)
            stood[-1] += 1
    assert stood[0] == STANDS
    assert stood == sorted(stood)
    assert stood[-1] == STANDS_MOST


def test_what_was_chosen_before_the_row_was_warm_is_chosen_anew() -> None:
    calls = Calls(400_000, 430_000)
    calls.run(FIRST + TRIED)
    calls.polling_ns = 200_000
    assert calls.run(STANDS) == 0
    assert calls.run(TRIED) == TRIED
    assert calls.run(TRIED + STANDS) == STANDS


def test_a_bad_spell_of_the_way_in_force_changes_nothing() -> None:
    calls = Calls(600_000, 700_000)
    calls.run(FIRST - BLOCK)
    calls.without_ns = 1_000_000
    calls.run(BLOCK)
    calls.without_ns = 600_000
    assert calls.run(TRIED) == TRIED
    assert calls.run(TRIED + STANDS // 2) == 0


def test_a_bad_spell_after_the_trial_changes_nothing() -> None:
    calls = Calls(600_000, 700_000)
    calls.run(FIRST)
    calls.run(TRIED)
    calls.without_ns = 1_000_000
    assert calls.run(TRIED) == 0
    assert calls.run(STANDS // 2) == 0


def test_a_few_slow_calls_do_not_decide() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(FIRST + SETTLING)
    for _ in range(BLOCK // 4):
        calls.now += 1_000_000
        calls.run(4)
    calls.run(TRIED)
    assert calls.run(STANDS) == STANDS


def test_a_new_choice_is_soon_put_to_the_test() -> None:
    calls = Calls(200_000, 400_000)
    calls.run(FIRST + GLANCED)
    calls.run(STANDS + GLANCED)
    calls.without_ns = 900_000
    assert calls.run(4 * STANDS) == 0
    assert calls.run(2 * TRIED) == TRIED
    calls.without_ns = 200_000
    assert calls.run(STANDS) == STANDS
    assert calls.run(2 * TRIED) == TRIED
    assert calls.run(STANDS) == 0


def test_single_calls_are_never_polled_for() -> None:
    calls = Calls(2 * ROW_GAP_NS, 200_000)
    assert calls.run(FIRST + TRIED) == 0


def test_after_a_pause_the_next_call_is_not_waited_for() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(FIRST + 2 * TRIED)
    calls.now += ROW_GAP_NS
    calls.trial.held(calls.now)
    assert calls.run(1) == 0
    assert calls.run(2) == 2


def test_beside_a_busy_program_it_is_given_up() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(FIRST)
    assert calls.run(2 * SETTLING, disturbed=True) == SETTLING
    assert calls.run(STANDS - SETTLING - 1) == 0


def test_rare_disturbances_do_no_harm() -> None:
    calls = Calls(400_000, 200_000)
    calls.run(FIRST + 2 * TRIED)
    turns = STANDS // 32 - 1
    polled = sum(calls.run(31) + calls.run(1, disturbed=True) for _ in range(turns))
    assert polled == 32 * turns
