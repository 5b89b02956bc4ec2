"""Ids of held calls: one after the other, never twice, and few of them cost a write."""

from agentd.enforce.approvals import Approvals


class Kept:
    """What is on disk of the ids of one engine after the other."""

    def __init__(self) -> None:
        self.number = 0
        self.writes = 0

    def engine(self) -> Approvals:
        approvals = Approvals()
        approvals.continue_after(self.number)

        def persist() -> None:
            self.number = approvals.reserved
            self.writes += 1

        approvals.persist = persist
        return approvals


def test_an_engine_that_is_killed_leaves_no_id_to_be_used_again() -> None:
    kept = Kept()
    given: list[str] = []
    for count in (1, 0, 3, 2500, 1):
        engine = kept.engine()
        given += [engine.next_id() for _ in range(count)]
    assert len(set(given)) == len(given) == 2505
    assert given[0] == "h1"
    assert kept.writes < 10


def test_an_engine_that_closes_leaves_no_gap() -> None:
    kept = Kept()
    first = kept.engine()
    assert [first.next_id(), first.next_id()] == ["h1", "h2"]
    kept.number = first.last_number
    assert kept.engine().next_id() == "h3"
