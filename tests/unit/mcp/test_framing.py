from hypothesis import given
from hypothesis import strategies as st

from agentd.mcp.framing import Frame, LineFramer


def test_one_line_in_one_chunk() -> None:
    assert LineFramer().feed(b'{"a":1}\n') == [Frame(b'{"a":1}', 0, 8)]


def test_crlf_and_blank_lines() -> None:
    frames = LineFramer().feed(b"a\r\n\r\n  \n\nb\n")
    assert frames == [Frame(b"a", 0, 3), Frame(b"b", 9, 11)]


@given(st.text("{}\r x", max_size=6))
def test_a_line_in_one_chunk_is_the_same_as_in_two(text: str) -> None:
    line = text.encode()
    framer = LineFramer()
    assert framer.feed(line) == []
    in_two = [frame.raw for frame in framer.feed(b"\n")]
    assert [frame.raw for frame in LineFramer().feed(line + b"\n")] == in_two


def test_line_over_three_chunks_has_a_negative_start() -> None:
    framer = LineFramer()
    assert framer.feed(b"abc") == []
    assert (framer.pending, framer.pending_size) == (b"abc", 3)
    assert framer.feed(b"de") == []
    assert framer.since(4) == b"e"
    (frame,) = framer.feed(b"f\r\nnext")
    assert frame == Frame(b"abcdef", -5, 3)
    assert frame.head == b"abcde"
    assert framer.pending == b"next"


def test_spaces_and_byte_order_mark_stay_in_raw() -> None:
    assert LineFramer().feed(b"\xef\xbb\xbf {}\n")[0].raw == b"\xef\xbb\xbf {}"


def test_lost_bytes_cost_the_rest_of_the_line_only() -> None:
    framer = LineFramer()
    framer.feed(b'{"half":')
    framer.lost()
    assert not framer.synced
    assert framer.feed(b"rest of something") == []
    assert not framer.synced
    assert [frame.raw for frame in framer.feed(b"}\nok\n")] == [b"ok"]
    assert framer.synced


def test_oversized_line_is_dropped_counted_and_followed_by_the_next() -> None:
    framer = LineFramer(limit=10)
    assert framer.feed(b"x" * 8) == []
    assert framer.feed(b"x" * 8) == []
    assert (framer.oversized, framer.synced, framer.pending) == (1, False, b"")
    assert [frame.raw for frame in framer.feed(b"xx\nok\n")] == [b"ok"]
    assert framer.feed(b"y" * 11 + b"\n") == []
    assert framer.oversized == 2
    assert [frame.raw for frame in framer.feed(b"z" * 10 + b"\n")] == [b"z" * 10]


@given(st.lists(st.binary(max_size=12), max_size=8), st.data())
def test_every_cut_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines) + b"\n"
    whole = [frame.raw for frame in LineFramer().feed(stream)]
    framer = LineFramer()
    cut: list[bytes] = []
    fed = 0
    while fed < len(stream):
        chunk = stream[fed : fed + data.draw(st.integers(1, 9))]
        for frame in framer.feed(chunk):
            begin = fed + frame.start
            assert stream[begin : begin + len(frame.raw)] == frame.raw
            assert stream[fed + frame.end - 1 : fed + frame.end] == b"\n"
            cut.append(frame.raw)
        fed += len(chunk)
    assert cut == whole
    assert framer.pending == b""
