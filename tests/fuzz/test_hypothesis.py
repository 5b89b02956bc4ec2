"""The fuzz oracles on inputs that hypothesis shapes and shrinks."""

from itertools import pairwise
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from agentd.mcp.jsonrpc import parse
from tests.fuzz import oracles
from tests.fuzz.generate import Conversations, Mutations, transcript_lines

LINES = [line for _, line in transcript_lines() if len(line) < 700]
PIECES = st.sampled_from(
    [
        *LINES,
        b"\n",
        b"\r",
        b"{",
        b"[",
        b"}",
        b'"',
        b"\\u",
        b'"id":1,',
        b'"method":"tools/call"',
        b" ",
    ]
) | st.binary(max_size=6)
STREAMS = st.lists(PIECES, min_size=1, max_size=6).map(b"".join).filter(bool)


@given(STREAMS, st.lists(st.integers(0, 4000), max_size=6))
@example(b'{"jsonrpc":"2.0","id":4,"method":"ping","params":\r\n{"name":"x"}}\n', [60, 61])
def test_any_cut_gives_the_same_messages(data: bytes, points: list[int]) -> None:
    edges = sorted({0, len(data), *(point % len(data) for point in points)})
    chunks = [data[start:end] for start, end in pairwise(edges)]
    oracles.observed(oracles.any_cut(chunks))


@given(st.integers(0, 1 << 32))
def test_interleaved_conversations_never_mix(seed: int) -> None:
    make = Conversations(seed)
    oracles.interleaved(make.script("left"), make.script("right"), Random(seed).getrandbits(40))


@given(STREAMS, st.integers(0, 4000))
def test_refused_is_never_the_original(data: bytes, split: int) -> None:
    line = data.replace(b"\n", b" ")
    if parse(line):
        oracles.refused(line, split % len(line))


def test_recorded_sessions_cut_at_every_byte() -> None:
    for line in LINES[:12]:
        for at in range(1, len(line)):
            (message,) = oracles.any_cut([line[:at], line[at:]])
            assert message.kind != "invalid"
            assert not message.anomalies


def test_damage_is_reproducible() -> None:
    assert [Mutations(7).stream() for _ in range(3)] == [Mutations(7).stream() for _ in range(3)]
