"""The few bpf(2) and perf_event_open(2) calls that feature trials need, without libbpf.

Layouts are `union bpf_attr` and `struct perf_event_attr` of include/uapi/linux (bpf.h,
perf_event.h); the fields used here have not moved since Linux 5.8. Everything that can be
refused raises OSError with the kernel's errno.
"""

import ctypes
import fcntl
import os
import struct
from pathlib import Path

MAP_ARRAY = 2
MAP_RINGBUF = 27

PROG_KPROBE = 2
PROG_TRACEPOINT = 5
PROG_RAW_TRACEPOINT = 17
PROG_CGROUP_SOCK_ADDR = 18
PROG_TRACING = 26
PROG_LSM = 29

ATTACH_CGROUP_INET4_CONNECT = 10
ATTACH_TRACE_RAW_TP = 23
ATTACH_TRACE_FENTRY = 24
ATTACH_MODIFY_RETURN = 26
ATTACH_LSM_MAC = 27

HELPER_MAP_LOOKUP = 1
HELPER_SEND_SIGNAL = 109
HELPER_PROBE_READ_USER = 112
HELPER_PROBE_READ_KERNEL = 113
HELPER_LOOP = 181

_MAP_CREATE, _MAP_LOOKUP, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = 0, 1, 5, 17, 28
_SYSCALLS = {  # machine: (bpf, perf_event_open)
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "ppc64le": (361, 319),
    "s390x": (351, 331),
}
_PROG_ATTR = struct.Struct("=IIQQIIQII16sIIIIQIIQIII")
_PERF_ATTR_SIZE = 112
_PERF_FLAG_FD_CLOEXEC = 8
_LOG_BYTES = 16384

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(which: int, *arguments: object) -> int:
    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is None:
        raise OSError(38, f"no bpf system call number known for {os.uname().machine}")
    result = int(_libc.syscall(ctypes.c_long(numbers[which]), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return _syscall(0, ctypes.c_long(command), buffer, ctypes.c_ulong(len(attr)))


def instruction(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One 8-byte eBPF instruction (RFC 9669, section 3)."""
    return struct.pack("=BBhi", code, dst | src << 4, off, imm)


def returning(value: int) -> bytes:
    """The program `r0 = value; exit`."""
    return instruction(0xB7, imm=value) + instruction(0x95)


def counting(map_fd: int) -> bytes:
    """A program that adds one to element 0 of an array map of u64 and returns 0."""
    return b"".join(
        (
            instruction(0x18, dst=1, src=1, imm=map_fd),  # r1 = map
            instruction(0x00),
            instruction(0x62, dst=10, off=-4),  # key = 0 on the stack
            instruction(0xBF, dst=2, src=10),
            instruction(0x07, dst=2, imm=-4),  # r2 = &key
            instruction(0x85, imm=HELPER_MAP_LOOKUP),
            instruction(0x15, off=2),  # if r0 == 0 skip two
            instruction(0xB7, dst=1, imm=1),
            instruction(0xDB, dst=0, src=1),  # lock *(u64 *)r0 += r1
            returning(0),
        )
    )


def calling_send_signal() -> bytes:
    """A program that would send signal 0 to the current task; for loading, not for running."""
    return instruction(0xB7, dst=1) + instruction(0x85, imm=HELPER_SEND_SIGNAL) + returning(0)


def calling_probe_read(helper: int) -> bytes:
    """A program that would read 8 bytes at address 0 with `helper`; for loading, not running."""
    return b"".join(
        (
            instruction(0xBF, dst=1, src=10),
            instruction(0x07, dst=1, imm=-8),  # r1 = stack
            instruction(0xB7, dst=2, imm=8),
            instruction(0xB7, dst=3, imm=0),
            instruction(0x85, imm=helper),
            returning(0),
        )
    )


def calling_loop() -> bytes:
    """A program that calls `bpf_loop` with no function: EACCES where there is such a helper."""
    arguments = (instruction(0xB7, dst=number) for number in range(1, 5))
    return b"".join((*arguments, instruction(0x85, imm=HELPER_LOOP), returning(0)))


def load_program(
    kind: int, code: bytes, attach_type: int = 0, btf_id: int = 0, name: bytes = b"agentd_trial"
) -> int:
    """Load a program and return its descriptor.

    Raises OSError; where the verifier wrote a log, its last line is the error's text.
    """
    source = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(b"GPL")

    def attempt(log: "ctypes.Array[ctypes.c_char] | None") -> int:
        attr = _PROG_ATTR.pack(
            kind,
            len(code) // 8,
            ctypes.addressof(source),
            ctypes.addressof(license_text),
            0 if log is None else 1,
            0 if log is None else _LOG_BYTES,
            0 if log is None else ctypes.addressof(log),
            *(0, 0, name, 0),
            attach_type,
            *(0, 0, 0, 0, 0, 0, 0),
            btf_id,
            0,
        )
        return _bpf(_PROG_LOAD, attr)

    try:
        return attempt(None)
    except OSError:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return attempt(log)
        except OSError as error:
            lines = [
                line
                for line in log.value.decode("utf-8", "replace").splitlines()
                if line.strip() and not line.startswith(("processed ", "verification time"))
            ]
            if lines:
                raise OSError(error.errno, lines[-1].strip()) from None
            raise


def create_map(kind: int, key_size: int, value_size: int, entries: int) -> int:
    """Create a map and return its descriptor."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIIIII", kind, key_size, value_size, entries, 0, 0, 0))


def read_counter(map_fd: int) -> int:
    """The u64 in element 0 of an array map."""
    key = ctypes.c_uint32(0)
    value = ctypes.c_uint64(0)
    _bpf(
        _MAP_LOOKUP,
        struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0),
    )
    return value.value


def attach_raw_tracepoint(prog_fd: int, name: bytes | None) -> int:
    """Attach to a raw tracepoint, or (name None) to the BTF target the program was loaded for.

    Closing the returned descriptor detaches.
    """
    text = ctypes.create_string_buffer(name) if name is not None else None
    address = ctypes.addressof(text) if text is not None else 0
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", address, prog_fd, 0))


def attach_cgroup(prog_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach to a cgroup by a link; closing the returned descriptor detaches."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", prog_fd, cgroup_fd, attach_type, 0))


def open_probe(pmu: str, target: bytes, offset: int) -> int:
    """Open a kprobe (target: symbol) or uprobe (target: path) on the calling thread only.

    Raises FileNotFoundError where the kernel has no such probe unit.
    """
    unit = int(Path(f"/sys/bus/event_source/devices/{pmu}/type").read_text("ascii"))
    text = ctypes.create_string_buffer(target)
    disabled = 1
    attr = struct.pack("=IIQQQQQIIQQ", unit, _PERF_ATTR_SIZE, 0, 0, 0, 0, disabled, 0, 0,
                       ctypes.addressof(text), offset).ljust(_PERF_ATTR_SIZE, b"\0")  # fmt: skip
    buffer = ctypes.create_string_buffer(attr, len(attr))
    thread, any_cpu, no_group = ctypes.c_long(0), ctypes.c_long(-1), ctypes.c_long(-1)
    return _syscall(1, buffer, thread, any_cpu, no_group, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))


def bind_probe(perf_fd: int, prog_fd: int) -> None:
    """Make a probe run a program, and enable it."""
    set_bpf, enable = 0x40042408, 0x2400
    fcntl.ioctl(perf_fd, set_bpf, prog_fd)
    fcntl.ioctl(perf_fd, enable, 0)


def rename_to_same_name() -> None:
    """Set the calling thread's name to what it is: fires the `task_rename` tracepoint here only."""
    name = Path("/proc/thread-self/comm").read_bytes().rstrip(b"\n")
    pr_set_name = 15
    _libc.prctl(pr_set_name, ctypes.c_char_p(name), 0, 0, 0)


def function_offset(name: str) -> tuple[str, int]:
    """File and file offset of a function of this process's C library (from /proc/self/maps)."""
    function = getattr(_libc, name)
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            span, _, rest = line.partition(" ")
            start, _, end = span.partition("-")
            if int(start, 16) <= address < int(end, 16):
                fields = rest.split(maxsplit=4)
                return fields[4].strip(), address - int(start, 16) + int(fields[1], 16)
    raise OSError(2, f"{name} is in no mapped file")
