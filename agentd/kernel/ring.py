"""Reads a BPF ring buffer through its mapping, in batches, without a callback per record.

Layout (kernel/bpf/ringbuf.c): a page with the consumer position, a page with the producer
position, the data. A record is a u32 length with two flag bits, a u32 page offset, the bytes,
padded to 8. The kernel offers the data twice in a row so that no record wraps; it is mapped once
here, as the second copy would count as resident memory again.

The positions are read and written through memoryviews, which move the eight bytes at once. The
struct module does not: `pack_into` clears the field before it fills it byte by byte, and a kernel
that reserves a record in that moment sees position 0, takes the ring for full and loses it.
"""

import mmap
import struct
from typing import Final

_BUSY: Final = 1 << 31
_DISCARD: Final = 1 << 30
_HEADER: Final = 8
_LENGTH: Final = struct.Struct("=I")


class RingReader:
    """The consumer of one ring buffer. Only one process may consume a ring at a time."""

    __slots__ = ("_consumed", "_consumer", "_data", "_position", "_produced", "_size", "fd")

    def __init__(self, fd: int, size: int) -> None:
        """`size` in bytes is the map's max_entries: a power of two of whole pages."""
        page = mmap.PAGESIZE
        self.fd = fd
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._data)[:8].cast("Q")
        self._position: int = self._consumed[0]

    def pending(self) -> int:
        """Bytes that wait to be read."""
        return self.produced - self._position

    @property
    def position(self) -> int:
        """How many bytes have been read since the ring was made."""
        return self._position

    @property
    def produced(self) -> int:
        """How many bytes have been reserved in it since it was made."""
        return self._produced[0]

    def read(self, limit: int) -> list[bytes]:
        """At most `limit` records, oldest first, as copies; their room is given back."""
        data = self._data
        size = self._size
        mask = size - 1
        page = mmap.PAGESIZE
        position = self._position
        produced = self._produced[0]
        records: list[bytes] = []
        while position < produced and len(records) < limit:
            at = position & mask
            header: int = _LENGTH.unpack_from(data, page + at)[0]
            if header & _BUSY:
                break
            length = header & ~(_BUSY | _DISCARD)
            if not header & _DISCARD:
                start = at + _HEADER
                end = start + length
                if end <= size:
                    records.append(data[page + start : page + end])
                elif start >= size:
                    records.append(data[page + start - size : page + end - size])
                else:
                    records.append(
                        data[page + start : page + size] + data[page : page + end - size]
                    )
            position += (length + _HEADER + 7) & ~7
        if position != self._position:
            self._position = position
            self._consumed[0] = position
        return records

    def close(self) -> None:
        """Unmaps the ring."""
        self._consumed.release()
        self._produced.release()
        self._consumer.close()
        self._data.close()
