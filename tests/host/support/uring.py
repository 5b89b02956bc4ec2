"""io_uring without a library, as source for programs that tests run: a ring of one thread.

    ring = Ring(); ring.open(path); ring.read(fd, size); ring.connect(fd, address, port)

Each waits for its completion and raises OSError with what it says.
"""

from typing import Final

URING: Final = """
import ctypes, mmap, os, socket, struct
class Ring:
    # Operations of linux/io_uring.h.
    CONNECT, OPEN, READ, SEND = 16, 18, 22, 26
    POLLED, FORCED_ASYNC = 2, 16

    def __init__(self, flags=0):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.polled = flags & self.POLLED
        params = (ctypes.c_uint32 * 30)()
        params[2] = flags
        self.fd = self.libc.syscall(425, 4, params)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        p = list(params)
        self.sq_off, self.cq_off = p[10:20], p[20:30]
        size = max(self.sq_off[6] + p[0] * 4, self.cq_off[5] + p[1] * 16)
        self.sq = mmap.mmap(self.fd, size, offset=0)
        self.cq = mmap.mmap(self.fd, size, offset=0x8000000)
        self.entries = mmap.mmap(self.fd, p[0] * 64, offset=0x10000000)
        self.sq_mask, self.cq_mask = p[0] - 1, p[1] - 1

    def submit(self, op, fd, address, length, offset=0, op_flags=0, flags=0):
        tail = struct.unpack_from("<I", self.sq, self.sq_off[1])[0]
        index = tail & self.sq_mask
        entry = struct.pack("<BBHiQQIIQ", op, flags, 0, fd, offset, address, length, op_flags, 1)
        self.entries[index * 64:index * 64 + 64] = entry + bytes(24)
        struct.pack_into("<I", self.sq, self.sq_off[6] + 4 * index, index)
        struct.pack_into("<I", self.sq, self.sq_off[1], tail + 1)
        if self.libc.syscall(426, self.fd, 1, 1, 3 if self.polled else 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = struct.unpack_from("<I", self.cq, self.cq_off[0])[0]
        at = self.cq_off[5] + 16 * (head & self.cq_mask)
        result = struct.unpack_from("<i", self.cq, at + 8)[0]
        struct.pack_into("<I", self.cq, self.cq_off[0], head + 1)
        if result < 0:
            raise OSError(-result, "io_uring")
        return result

    def open(self, path, flags=0):
        name = ctypes.create_string_buffer(os.fsencode(path))
        return self.submit(self.OPEN, -100, ctypes.addressof(name), 0, flags=flags)

    def read(self, fd, size=100):
        into = ctypes.create_string_buffer(size)
        done = self.submit(self.READ, fd, ctypes.addressof(into), size)
        return into.raw[:done]

    def connect(self, fd, address, port, flags=0):
        packed = struct.pack("=HH4s8x", 2, socket.htons(port), socket.inet_aton(address))
        name = ctypes.create_string_buffer(packed, 16)
        return self.submit(self.CONNECT, fd, ctypes.addressof(name), 0, offset=16, flags=flags)
"""
