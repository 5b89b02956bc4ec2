"""Memory of another process: process_vm_readv(2) and process_vm_writev(2).

Used on stopped tasks only: what a running process's buffer holds says nothing about what the
process has read.
"""

import ctypes
import struct
from typing import Final

MAX_IOVECS: Final = 8
"""As many iovecs of a vectored read as the kernel side looks at."""

_IOVEC: Final = struct.Struct("=QQ")
_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_writev = _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]


def read(pid: int, address: int, length: int) -> bytes:
    """`length` bytes at `address` of process `pid`. Raises OSError (ESRCH, EFAULT, EPERM)."""
    buffer = ctypes.create_string_buffer(length)
    local = _IOVEC.pack(ctypes.addressof(buffer), length)
    done = _readv(pid, local, 1, _IOVEC.pack(address, length), 1, 0)
    if done != length:
        raise OSError(ctypes.get_errno() if done < 0 else 14, f"process {pid}: memory not readable")
    return buffer.raw


def write(pid: int, address: int, data: bytes) -> None:
    """Overwrites memory of process `pid`. Raises OSError like `read`."""
    buffer = ctypes.create_string_buffer(data, len(data))
    local = _IOVEC.pack(ctypes.addressof(buffer), len(data))
    done = _writev(pid, local, 1, _IOVEC.pack(address, len(data)), 1, 0)
    if done != len(data):
        raise OSError(ctypes.get_errno() if done < 0 else 14, f"process {pid}: memory not writable")


def segments(pid: int, address: int, length: int, iovcnt: int) -> list[tuple[int, int]]:
    """Where the `length` bytes of a read went: (address, length) pairs in order.

    `iovcnt` 0 means one buffer at `address`, otherwise `address` is an array of iovecs.
    """
    if not iovcnt:
        return [(address, length)]
    raw = read(pid, address, iovcnt * _IOVEC.size)
    found = []
    for base, room in _IOVEC.iter_unpack(raw):
        taken = min(room, length)
        if taken:
            found.append((base, taken))
        length -= taken
    return found


def read_segments(pid: int, pieces: list[tuple[int, int]]) -> bytes:
    return b"".join(read(pid, address, length) for address, length in pieces)


def write_segments(pid: int, pieces: list[tuple[int, int]], data: bytes) -> None:
    """Writes `data` over the pieces; its length is theirs together."""
    at = 0
    for address, length in pieces:
        write(pid, address, data[at : at + length])
        at += length
