"""What a call is about to write, found by its arguments: in this process's own memory."""

import ctypes
import errno
import os
import platform
import struct

import pytest

from agentd.kernel import memory, sending
from agentd.kernel.maps import HoldValue

NUMBERS = {
    "x86_64": {"write": 1, "writev": 20, "sendto": 44, "sendmsg": 46, "pwritev2": 328},
    "aarch64": {"write": 64, "writev": 66, "sendto": 206, "sendmsg": 211, "pwritev2": 287},
}[platform.machine()]
PARTS = (b"one", b"", b"two and ", b"three")
WHOLE = b"".join(PARTS)
MSGHDR = struct.Struct("=QIIQQQQI")


def held(call: str, second: int, third: int) -> HoldValue:
    values = dict.fromkeys(HoldValue._fields, 0)
    values |= {"tgid": os.getpid(), "access": NUMBERS[call], "peer_ino": second, "address": third}
    return HoldValue(**values)


class Sent:
    """Buffers, an array of iovecs and a message header, as a caller would have them."""

    def __init__(self) -> None:
        self.parts = [ctypes.create_string_buffer(part, len(part)) for part in PARTS]
        vector = b"".join(
            struct.pack("=QQ", ctypes.addressof(part), len(part)) for part in self.parts
        )
        self.vector = ctypes.create_string_buffer(vector, len(vector))
        self.whole = ctypes.create_string_buffer(WHOLE, len(WHOLE))
        header = MSGHDR.pack(0, 0, 0, ctypes.addressof(self.vector), len(PARTS), 0, 0, 0)
        self.header = ctypes.create_string_buffer(header, len(header))

    def hold(self, call: str) -> HoldValue:
        if call == "sendmsg":
            return held(call, ctypes.addressof(self.header), 0)
        if call.endswith(("v", "v2")):
            return held(call, ctypes.addressof(self.vector), len(PARTS))
        return held(call, ctypes.addressof(self.whole), len(WHOLE))


@pytest.mark.parametrize("call", NUMBERS)
def test_every_call(call: str) -> None:
    sent = Sent()
    pieces = sending.pieces_of(sent.hold(call))
    assert memory.read(os.getpid(), pieces) == WHOLE
    rest = memory.without(pieces, 5)
    assert memory.read(os.getpid(), rest) == WHOLE[5:]
    memory.overwrite(os.getpid(), rest, WHOLE[5:].upper())
    assert memory.read(os.getpid(), pieces) == WHOLE[:5] + WHOLE[5:].upper()
    assert memory.without(pieces, len(WHOLE)) == []


def test_what_cannot_be_read() -> None:
    sent = Sent()
    with pytest.raises(OSError, match="system call") as unknown:
        sending.pieces_of(sent.hold("write")._replace(access=40))
    assert unknown.value.errno == errno.ENOSYS
    with pytest.raises(OSError, match="at once") as long:
        sending.pieces_of(held("write", 0, sending.LONGEST + 1))
    assert long.value.errno == errno.EMSGSIZE
    with pytest.raises(OSError, match="iovecs"):
        sending.pieces_of(held("writev", ctypes.addressof(sent.vector), 1025))


def test_memory_that_its_task_cannot_write_is_overwritten() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    private_anonymous, read_write, read_only = 0x22, 3, 1
    address = libc.mmap(None, ctypes.c_size_t(4096), read_write, private_anonymous, -1, 0)
    ctypes.memmove(address, WHOLE, len(WHOLE))
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), read_only) == 0
    try:
        memory.overwrite(os.getpid(), [(address, 3), (address + 3, 4)], b"ONETWO_")
        assert ctypes.string_at(address, len(WHOLE)) == b"ONETWO_" + WHOLE[7:]
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))
