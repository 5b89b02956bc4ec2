"""The ring reader on a file that is laid out as the kernel lays out a ring buffer."""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.kernel.ring import RingReader

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARD = 1 << 31, 1 << 30


class Ring:
    """The producer's side (kernel/bpf/ringbuf.c), on a file instead of kernel memory."""

    def __init__(self, start: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + SIZE)
        self._map = mmap.mmap(self.fd, 2 * PAGE + SIZE)
        self.produced = start
        self._put(0, start)
        self._put(PAGE, start)

    def _put(self, at: int, value: int) -> None:
        struct.pack_into("=Q", self._map, at, value)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self._map, 0)[0])

    def write(self, data: bytes, flags: int = 0) -> int | None:
        """Add a record; its position, or None where there is no room."""
        room = (len(data) + 8 + 7) & ~7
        if self.produced + room - self.consumed > SIZE:
            return None
        at = self.produced
        self._bytes(at, struct.pack("=II", len(data) | flags, 0) + data)
        self.produced += room
        self._put(PAGE, self.produced)
        return at

    def commit(self, at: int, length: int) -> None:
        """End the write of a record that was busy."""
        self._bytes(at, struct.pack("=I", length))

    def _bytes(self, at: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            self._map[2 * PAGE + (at + offset) % SIZE] = byte

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    made.close()


@pytest.fixture
def reader(ring: Ring) -> Iterator[RingReader]:
    made = RingReader(ring.fd, SIZE)
    yield made
    made.close()


def test_empty(reader: RingReader) -> None:
    assert reader.pending() == 0
    assert reader.read(10) == []


def test_records_in_order_and_room_given_back(ring: Ring, reader: RingReader) -> None:
    for data in (b"one", b"", b"eight888", b"thirteen bytes"):
        ring.write(data)
    assert reader.pending() == ring.produced
    assert reader.read(10) == [b"one", b"", b"eight888", b"thirteen bytes"]
    assert ring.consumed == ring.produced
    assert reader.pending() == 0


def test_limit(ring: Ring, reader: RingReader) -> None:
    for number in range(5):
        ring.write(b"%d" % number)
    assert reader.read(2) == [b"0", b"1"]
    assert ring.consumed == 32
    assert reader.read(2) == [b"2", b"3"]
    assert reader.read(2) == [b"4"]


def test_busy_record_stops_the_reader(ring: Ring, reader: RingReader) -> None:
    ring.write(b"first")
    at = ring.write(b"later", BUSY)
    ring.write(b"third")
    assert at is not None
    assert reader.read(10) == [b"first"]
    assert reader.read(10) == []
    ring.commit(at, 5)
    assert reader.read(10) == [b"later", b"third"]


def test_discarded_record_is_left_out(ring: Ring, reader: RingReader) -> None:
    ring.write(b"first")
    ring.write(b"nothing", DISCARD)
    ring.write(b"third")
    assert reader.read(10) == [b"first", b"third"]
    assert ring.consumed == ring.produced


def test_goes_on_where_another_reader_stopped(ring: Ring, reader: RingReader) -> None:
    ring.write(b"first")
    ring.write(b"second")
    assert reader.read(1) == [b"first"]
    other = RingReader(ring.fd, SIZE)
    assert other.read(10) == [b"second"]
    other.close()


@pytest.mark.parametrize("start", [SIZE - 8, SIZE - 16, SIZE - 24, 7 * SIZE - 32, 2**40 - 8])
def test_wrap_around(start: int) -> None:
    """Header, bytes, or both lie beyond the end of the data."""
    ring = Ring(start)
    reader = RingReader(ring.fd, SIZE)
    for data in (b"0123456789abcdef" * 4, b"next"):
        ring.write(data)
    assert reader.read(10) == [b"0123456789abcdef" * 4, b"next"]
    reader.close()
    ring.close()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.binary(max_size=700), st.booleans(), st.integers(1, 4)), max_size=60),
)
def test_any_sequence(start: int, steps: list[tuple[bytes, bool, int]]) -> None:
    ring = Ring(start * 8)
    reader = RingReader(ring.fd, SIZE)
    expected: list[bytes] = []
    got: list[bytes] = []
    for data, discarded, limit in steps:
        while ring.write(data, DISCARD if discarded else 0) is None:
            got += reader.read(limit)
        if not discarded:
            expected.append(data)
    while part := reader.read(3):
        got += part
    assert got == expected
    reader.close()
    ring.close()
