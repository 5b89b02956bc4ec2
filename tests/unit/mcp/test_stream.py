import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.mcp.stream import Line, MessageStream

CALL = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"p":[1]}}}'
)
PRETTY = json.dumps(json.loads(CALL), indent=1).encode()


def told(lines: list[Line]) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(message.method, message.anomalies) for line in lines for message in line.messages]


def test_usual_line() -> None:
    (line,) = MessageStream().feed(CALL + b"\n")
    assert (line.frame.start, line.frame.end) == (0, len(CALL) + 1)
    assert told([line]) == [("tools/call", ())]


def test_noise_first_and_after() -> None:
    stream = MessageStream()
    lines = stream.feed(b"Starting {server}\n[WARN] x {\n{\n" + CALL + b"\n[\nbye\n" + CALL + b"\n")
    assert told(lines) == [("tools/call", ()), ("tools/call", ())]


def test_value_over_several_lines_as_a_streaming_decoder_takes_it() -> None:
    stream = MessageStream()
    data = b"hello\n" + PRETTY.replace(b"\n", b"\r\n\n") + b"\n"
    lines = stream.feed(data)
    assert told(lines) == [("tools/call", ("multi-line",))]
    frame = lines[-1].frame
    assert (frame.start, frame.end) == (6, len(data))


def test_value_over_several_lines_and_chunks_keeps_its_place() -> None:
    data = PRETTY + b"\n"
    for cut in range(1, len(data) - 1):
        stream = MessageStream()
        lines = stream.feed(data[:cut])
        chunk = data[cut:]
        if not told(lines):
            lines = stream.feed(chunk)
            frame = lines[-1].frame
            assert frame.start == -cut
            assert frame.head == data[:cut]
            assert frame.end == len(chunk)
        assert told(lines)[0][0] == "tools/call"
        assert stream.feed(CALL + b"\n")[-1].messages[0].anomalies == ()


def test_message_without_newline_is_told_at_once_and_only_once() -> None:
    stream = MessageStream()
    assert stream.feed(CALL[:20]) == []
    (line,) = stream.feed(CALL[20:])
    assert told([line]) == [("tools/call", ("no-newline",))]
    assert (line.frame.start, line.frame.end, line.frame.head) == (-20, len(CALL) - 20, CALL[:20])
    assert stream.feed(b" ") == []
    assert stream.feed(b"\r\n") == []
    assert told(stream.feed(CALL + b"\n")) == [("tools/call", ())]


def test_more_after_an_early_message_is_told_again() -> None:
    stream = MessageStream()
    assert len(stream.feed(CALL)) == 1
    assert told(stream.feed(CALL + b"\n")) == [("tools/call", ("trailing-data",))]


def test_spanning_value_without_newline() -> None:
    stream = MessageStream()
    lines = stream.feed(PRETTY)
    assert told(lines) == [("tools/call", ("multi-line", "no-newline"))]
    assert (lines[-1].frame.start, lines[-1].frame.end) == (0, len(PRETTY))
    assert told(stream.feed(b"\n")) == []
    assert told(stream.feed(CALL + b"\n")) == [("tools/call", ())]


def test_array_that_wraps_lines_is_seen_both_ways() -> None:
    lines = MessageStream().feed(b"[\n" + CALL + b"\n]\n")
    assert told(lines) == [("tools/call", ()), ("tools/call", ("batch", "multi-line"))]


def test_oversized_line_forgets_what_was_scanned() -> None:
    stream = MessageStream(limit=100)
    stream.feed(b'{"a":"}')
    stream.feed(b"x" * 200)
    assert stream.framer.oversized == 1
    assert told(stream.feed(b"\n" + CALL + b"\n")) == [("tools/call", ())]


def test_what_is_too_long_to_be_followed_is_told() -> None:
    """A streaming reader takes it, with or without a newline."""
    stream = MessageStream()
    call = CALL[:-2] + b',"a":[' + b"[]," * 600_000 + b"1]}}"
    ((line,), rest) = stream.feed(call), stream.feed(b"\n")
    assert line.messages[0].anomalies == ("over-limit", "no-newline")
    assert (line.frame.start, line.frame.end, rest) == (0, len(call), [])


def test_a_value_over_lines_that_is_too_long_is_told() -> None:
    stream = MessageStream()
    stream.feed(b'{"a":\n')
    (_, line) = stream.feed(b" " * 1_200_000 + b'"b",\n')
    assert line.messages[0].anomalies == ("over-limit", "not-jsonrpc", "multi-line")
    assert line.frame.start < 0


@pytest.mark.parametrize(
    ("line", "garbled"),
    [
        (b"noise", False),
        (b"[info] x", False),
        (b'{"a":', False),
        (b'{"a":1,}', True),
        (b"{a:1}", True),
    ],
)
def test_what_lenient_parsers_may_read(line: bytes, garbled: bool) -> None:
    (told_of,) = MessageStream().feed(line + b"\n")
    assert (told_of.messages, told_of.garbled) == ([], garbled)


def test_lost_bytes() -> None:
    stream = MessageStream()
    stream.feed(b"{\n" + CALL[:30])
    stream.lost()
    assert told(stream.feed(b"}}}\n" + CALL + b"\n")) == [("tools/call", ())]


@given(
    st.lists(st.sampled_from([CALL, PRETTY, b"noise", b"{", b"[", b"}", b""]), max_size=6),
    st.data(),
)
def test_every_cut_tells_the_same(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(part + b"\n" for part in parts)
    whole = [method for method, _ in told(MessageStream().feed(stream))]
    cut: list[str | None] = []
    reader = MessageStream()
    while stream:
        size = data.draw(st.integers(1, 60))
        cut += [method for method, _ in told(reader.feed(stream[:size]))]
        stream = stream[size:]
    assert cut == whole
