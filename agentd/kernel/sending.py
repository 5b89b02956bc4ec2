"""What a thread is about to write, in its own memory: by the arguments of its system call.

The thread is held at the entry of the call. Its memory is its own, though: another process that
shares it could change it after this look.
"""

import errno
import platform
import struct
from typing import Final

from agentd.kernel import memory
from agentd.kernel.maps import HoldValue
from agentd.kernel.memory import Piece

LONGEST: Final = 64 << 20
"""Bytes: a longer write is not read."""
_MSGHDR: Final = struct.Struct("=QIIQQ")  # name, its length, padding, iov, iovlen
_BUFFER, _VECTOR, _MESSAGE = "buffer", "vector", "message"
_KINDS: Final[dict[str, dict[int, str]]] = {
    "x86_64": {1: _BUFFER, 44: _BUFFER, 20: _VECTOR, 328: _VECTOR, 46: _MESSAGE},
    "aarch64": {64: _BUFFER, 206: _BUFFER, 66: _VECTOR, 287: _VECTOR, 211: _MESSAGE},
}
"""How write, sendto; writev, pwritev2; sendmsg say what they send (second and third argument)."""


def pieces_of(hold: HoldValue) -> list[Piece]:
    """Where the bytes of a held write are, in order.

    Raises OSError: out of reach (ESRCH, EFAULT), too long (EMSGSIZE), or no call that is known.
    """
    second, third = hold.peer_ino, hold.address
    match _KINDS.get(platform.machine(), {}).get(hold.access):
        case "buffer":
            pieces = [(second, third)]
        case "vector":
            pieces = memory.vector(hold.tgid, second, third)
        case "message":
            header = memory.read(hold.tgid, [(second, _MSGHDR.size)])
            _, _, _, iov, count = _MSGHDR.unpack(header)
            pieces = memory.vector(hold.tgid, iov, count)
        case _:
            raise OSError(errno.ENOSYS, f"process {hold.tgid}: system call {hold.access}")
    if sum(size for _, size in pieces) > LONGEST:
        raise OSError(errno.EMSGSIZE, f"process {hold.tgid}: more than {LONGEST} bytes at once")
    return [piece for piece in pieces if piece[1]]
