"""What is written to a channel that takes it in part: judged once, each byte of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.mcp.outgoing import Outgoing


def line(number: int, text: str = "x") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": {"t": text}}).encode() + b"\n"


class Channel:
    """A channel, its writer and who judges, together: which ids were judged, what came through."""

    def __init__(self) -> None:
        self.outgoing = Outgoing(0)
        self.through = b""
        self.judged: list[int] = []

    def write(self, data: bytes, taken: int) -> None:
        """One system call of which the channel takes `taken` bytes; every x becomes a y."""
        again = self.outgoing.follow(len(self.through), data)
        rest = data[len(again) :]
        for each in self.outgoing.stream.feed(rest):
            self.judged += [message.id for message in each.messages]
        self.outgoing.let_go(rest, rest.replace(b"x", b"y"))
        self.through += (again + rest.replace(b"x", b"y"))[:taken]


@given(
    texts=st.lists(st.text("x{\n", max_size=20), min_size=1, max_size=5),
    cuts=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 80)), min_size=200, max_size=200),
)
def test_each_message_is_judged_once_however_it_is_taken(
    texts: list[str], cuts: list[tuple[int, int]]
) -> None:
    whole = b"".join(line(number, text) for number, text in enumerate(texts))
    channel = Channel()
    cuts += [(len(whole), len(whole))]
    for size, taken in cuts:
        if left := whole[len(channel.through) :]:
            channel.write(left[:size], min(taken, size, len(left)))
    assert channel.through == whole.replace(b"x", b"y")
    assert channel.judged == list(range(len(texts)))


def test_refused_bytes_come_again_as_they_are_by_now() -> None:
    channel = Channel()
    channel.write(line(1, "xxx"), 10)
    channel.write(line(1, "yyy")[10:], 0)  # of the writer's own memory, where they were replaced
    channel.write(line(1, "xxx")[10:] + line(2), 1000)  # of a copy of its own
    assert channel.through == line(1, "yyy") + line(2, "y")
    assert channel.judged == [1, 2]


def test_other_bytes_than_those_that_were_refused_are_judged() -> None:
    channel = Channel()
    channel.write(line(1), 0)
    channel.write(line(2), 1000)
    assert channel.judged == [1, 2]
    channel.write(line(3)[:20], 20)
    channel.write(line(3)[20:30], 0)
    channel.write(line(3)[20:25] + b"  " + line(3)[25:], 1000)
    assert channel.judged == [1, 2, 3]


def test_the_same_message_twice_is_judged_twice() -> None:
    channel = Channel()
    channel.write(line(1), 1000)
    channel.write(line(1), 1000)
    assert channel.judged == [1, 1]


def test_what_passed_unseen_makes_nothing_behind_it_unseen() -> None:
    outgoing = Outgoing(0)
    outgoing.follow(0, line(1)[:10])
    outgoing.stream.feed(line(1)[:10])
    outgoing.let_go(line(1)[:10], line(1)[:10])
    assert outgoing.follow(5000, line(2)) == b""
    assert [each.messages[0].id for each in outgoing.stream.feed(line(2))] == [2]


def test_a_write_under_way_may_be_taken_or_not() -> None:
    outgoing = Outgoing(0)
    outgoing.let_go(line(1), line(1))
    assert outgoing.follow(0, line(1), settled=False) == b""


@pytest.mark.timeout(20)
def test_a_long_line_in_small_pieces_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.mcp.outgoing.DEFAULT_LIMIT", 30 << 20)
    outgoing = Outgoing(0)
    piece = b"a" * 1024
    for number in range(40_000):
        assert outgoing.follow(number * 1024, piece) == b""
        outgoing.stream.feed(piece)
        outgoing.let_go(piece, piece)
    assert outgoing.follow(39_999 * 1024, b"b\n" + line(1)) == b""
    found = outgoing.stream.feed(b"b\n" + line(1))
    assert [message.id for each in found for message in each.messages] == [1]
