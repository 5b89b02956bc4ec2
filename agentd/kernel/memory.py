"""Memory of another process: process_vm_readv(2) and process_vm_writev(2).

Used on stopped tasks only: what a running process's buffer holds says nothing about what the
process has read.
"""

import ctypes
import errno
import struct
from pathlib import Path
from typing import Final

MAX_IOVECS: Final = 1024
"""UIO_MAXIOV: as many iovecs as one system call takes, theirs or ours."""

Piece = tuple[int, int]
"""Address and length of contiguous bytes in another process."""

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


def segments(pid: int, address: int, length: int, iovcnt: int) -> list[Piece]:
    """Where the `length` bytes of a read went, in order.

    `iovcnt` 0 means one buffer at `address`, otherwise `address` is an array of iovecs. Raises
    OSError if it is out of reach (ESRCH, EFAULT, EPERM), or has no room for `length` bytes.
    """
    if not iovcnt:
        return [(address, length)]
    found = []
    for base, room in vector(pid, address, iovcnt):
        taken = min(room, length)
        if taken:
            found.append((base, taken))
        length -= taken
    if length:
        raise OSError(errno.EINVAL, f"process {pid}: its iovecs are shorter than what it read")
    return found


def vector(pid: int, address: int, iovcnt: int) -> list[Piece]:
    """An array of iovecs. Raises OSError if it is out of reach or longer than the kernel takes."""
    if iovcnt > MAX_IOVECS:
        raise OSError(errno.EINVAL, f"process {pid}: {iovcnt} iovecs")
    return list(_IOVEC.iter_unpack(read(pid, [(address, iovcnt * _IOVEC.size)])))


def read(pid: int, pieces: list[Piece]) -> bytes:
    """The bytes of all pieces. Raises OSError (ESRCH, EFAULT, EPERM)."""
    length = sum(size for _, size in pieces)
    buffer = ctypes.create_string_buffer(length)
    _move("readable", _readv, pid, buffer, length, pieces)
    return buffer.raw


def write(pid: int, pieces: list[Piece], data: bytes) -> None:
    """Writes `data` over the pieces; its length is theirs together. Raises OSError like `read`."""
    buffer = ctypes.create_string_buffer(data, len(data))
    _move("writable", _writev, pid, buffer, len(data), pieces)


def without(pieces: list[Piece], count: int) -> list[Piece]:
    """Return the pieces without the first `count` bytes."""
    left = []
    for address, size in pieces:
        skipped = min(count, size)
        count -= skipped
        if size > skipped:
            left.append((address + skipped, size - skipped))
    return left


def overwrite(tgid: int, pieces: list[Piece], data: bytes) -> None:
    """Put `data` in the place of the pieces, also where the task itself may not write.

    Raises OSError.
    """
    try:
        write(tgid, pieces, data)
    except OSError:
        with Path(f"/proc/{tgid}/mem").open("r+b", buffering=0) as theirs:
            for address, size in pieces:
                theirs.seek(address)
                theirs.write(data[:size])
                data = data[size:]


def _move(  # noqa: PLR0917 (the arguments of the system call)
    what: str,
    function: "ctypes._NamedFuncPointer",
    pid: int,
    buffer: "ctypes.Array[ctypes.c_char]",
    length: int,
    pieces: list[Piece],
) -> None:
    local = _IOVEC.pack(ctypes.addressof(buffer), length)
    remote = b"".join(_IOVEC.pack(*piece) for piece in pieces)
    done = function(pid, local, 1, remote, len(pieces), 0)
    if done != length:
        number = ctypes.get_errno() if done < 0 else errno.EFAULT
        raise OSError(number, f"process {pid}: memory not {what}")
