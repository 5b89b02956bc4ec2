"""The Python mirror of bpf/include/wire.h.

Each struct is declared once, as a ctypes structure; `unpacker` derives the format that the hot
paths use. tests/unit/kernel/test_wire.py compares every member with the BTF of the objects.
"""

import ctypes
import struct
from ctypes import c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any, Final

COMM_LEN: Final = 16
NAME_LEN: Final = 64
UNIX_PATH_LEN: Final = 108

REC_FORK: Final = 1
REC_EXEC: Final = 2
REC_EXIT: Final = 3
REC_CANDIDATE: Final = 4
REC_OPEN: Final = 5
REC_CHANGE: Final = 6
REC_SOCKET: Final = 7
REC_DATA: Final = 8
REC_REFUSAL: Final = 9

ACCESS_READ: Final = 1
ACCESS_WRITE: Final = 2

SOCKET_CONNECT: Final = 1
SOCKET_BIND: Final = 2
SOCKET_ACCEPT: Final = 3
SOCKET_BLOCKED: Final = 4
SOCKET_CREATE: Final = 5
SOCKET_BIND_BLOCKED: Final = 6
SOCKET_CREATE_BLOCKED: Final = 7

DATA_LOST: Final = 1
DATA_INSIDE: Final = 2
DATA_WHOLE: Final = 4

HOLD_READ: Final = 1
HOLD_OPEN: Final = 2
HOLD_EXEC: Final = 3
HOLD_CALL: Final = 4

HOLD_PENDING: Final = 1
HOLD_STOPPED: Final = 2
HOLD_DECIDED: Final = 3

HOLDS_REQUESTS: Final = 1
HOLDS_CLIENT_REQUESTS: Final = 2
HOLDS_OPENS: Final = 4
HOLDS_EXECS: Final = 8
HOLDS_FAIL_CLOSED: Final = 16
TELLS_CHANGES: Final = 32
TELLS_SOCKETS: Final = 64
TELLS_OPENS: Final = 128
HOLDS_RESULTS: Final = 256

ROLE_MCP: Final = 1
ROLE_TO_SERVER: Final = 2
ROLE_TO_CLIENT: Final = 4
ROLE_OTHER: Final = 8

NAME_WATCH: Final = 1
NAME_HOLD: Final = 2
NAME_WRITE_ONLY: Final = 4
NAME_RUN: Final = 8

NAME_BASE: Final = 1
NAME_SUFFIX: Final = 2
NAME_DIR: Final = 3
NAME_PREFIX: Final = 4
NAME_EXEC: Final = 5

MAX_WORKLOADS: Final = 256
MAX_CPUS: Final = 1024
MAX_WAITS: Final = 1088

MASK_CANDIDATES: Final = 1
MASK_EXEC_ALL: Final = 2
MASK_OPENS_AT_ENTRY: Final = 4


class Record(ctypes.Structure):
    _fields_ = (
        ("kind", c_uint16),
        ("workload", c_uint16),
        ("session", c_uint32),
        ("time_ns", c_uint64),
        ("start_ns", c_uint64),
        ("tgid", c_uint32),
        ("tid", c_uint32),
        ("uid", c_uint32),
        ("count", c_uint32),
        ("comm", c_char * COMM_LEN),
    )


class ForkRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("child_start_ns", c_uint64),
        ("child", c_uint32),
        ("pad", c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (
        ("ino", c_uint64),
        ("parent", c_uint64),
        ("name", c_uint64),
        ("dev", c_uint32),
        ("generation", c_uint32),
    )


class CandidateRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("program", Program),
        ("path_len", c_uint32),
        ("pad", c_uint32),
    )


class ExecRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("parent_start_ns", c_uint64),
        ("cgroup", c_uint64),
        ("parent", c_uint32),
        ("gid", c_uint32),
        ("exe_len", c_uint32),
        ("filename_len", c_uint32),
        ("args_len", c_uint32),
        ("cwd_len", c_uint32),
        ("held", c_uint32),
        ("pad", c_uint32),
    )


class ExitRecord(ctypes.Structure):
    _fields_ = (("head", Record), ("code", c_int32), ("pad", c_uint32))


class OpenRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("ino", c_uint64),
        ("dev", c_uint32),
        ("access", c_uint32),
        ("path_len", c_uint32),
        ("pad", c_uint32),
    )


class ChangeRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("op", c_uint32),
        ("base_len", c_uint32),
        ("path_len", c_uint32),
        ("to_base_len", c_uint32),
        ("to_path_len", c_uint32),
        ("result", c_int32),
    )


class SocketRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("op", c_uint16),
        ("family", c_uint16),
        ("protocol", c_uint16),
        ("port", c_uint16),
        ("result", c_int32),
        ("rule", c_uint32),
        ("address", c_uint8 * 16),
        ("path_len", c_uint32),
        ("path", c_char * UNIX_PATH_LEN),
        ("real_len", c_uint32),
        ("relative", c_uint32),
    )


class DataRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("ino", c_uint64),
        ("peer_ino", c_uint64),
        ("fd", c_uint32),
        ("len", c_uint32),
        ("flags", c_uint32),
        ("pad", c_uint32),
    )


class Hold(ctypes.Structure):
    _fields_ = (
        ("id", c_uint64),
        ("time_ns", c_uint64),
        ("start_ns", c_uint64),
        ("tgid", c_uint32),
        ("tid", c_uint32),
        ("session", c_uint32),
        ("workload", c_uint16),
        ("kind", c_uint16),
        ("state", c_uint32),
        ("syscall", c_uint32),
        ("ino", c_uint64),
        ("peer_ino", c_uint64),
        ("address", c_uint64),
        ("length", c_uint64),
        ("iovcnt", c_uint32),
        ("fd", c_uint32),
        ("dev", c_uint32),
        ("access", c_uint32),
        ("cpu", c_uint32),
        ("pad", c_uint32),
    )


class Wait(ctypes.Structure):
    _fields_ = (("waiting", c_uint64), ("stopping", c_uint64), ("decided", c_uint64))


LABEL_RESERVED: Final = 0x80000000


class Label(ctypes.Structure):
    _fields_ = (
        ("start_ns", c_uint64),
        ("session", c_uint32),
        ("workload", c_uint16),
        ("pad", c_uint16),
    )


class Workload(ctypes.Structure):
    _fields_ = (("flags", c_uint32), ("socket_rules", c_uint32))


class Channel(ctypes.Structure):
    _fields_ = (("partial", c_uint32), ("reads", c_uint32))


class Written(ctypes.Structure):
    _fields_ = (("bytes", c_uint64), ("under_way", c_uint32), ("left", c_uint32))


class Name(ctypes.Structure):
    _fields_ = (("kind", c_uint32), ("text", c_char * NAME_LEN))


class TotalKey(ctypes.Structure):
    _fields_ = (("session", c_uint32), ("kind", c_uint32))


class FileId(ctypes.Structure):
    _fields_ = (("ino", c_uint64), ("dev", c_uint32), ("pad", c_uint32))


class Settings(ctypes.Structure):
    _fields_ = (
        ("flags", c_uint32),
        ("generation", c_uint32),
        ("patience_us", c_uint32),
        ("quiet_us", c_uint32),
    )


class Enforcing(ctypes.Structure):
    _fields_ = (
        ("version", c_uint32),
        ("armed", c_uint32),
        ("alive_ns", c_uint64),
        ("epoch", c_uint64),
        ("judges", c_uint32 * 2),
        ("awake", c_uint64),
    )


MIRROR: Final[dict[str, type[ctypes.Structure]]] = {
    "record": Record,
    "fork_record": ForkRecord,
    "program": Program,
    "candidate_record": CandidateRecord,
    "exec_record": ExecRecord,
    "exit_record": ExitRecord,
    "open_record": OpenRecord,
    "change_record": ChangeRecord,
    "socket_record": SocketRecord,
    "data_record": DataRecord,
    "hold": Hold,
    "wait": Wait,
    "label": Label,
    "workload": Workload,
    "channel": Channel,
    "written": Written,
    "name": Name,
    "total_key": TotalKey,
    "file_id": FileId,
    "settings": Settings,
    "enforcing": Enforcing,
}
"""The C name of every struct that is mirrored here."""

_CODES: Final[dict[type, str]] = {
    c_uint8: "B",
    c_uint16: "H",
    c_int32: "i",
    c_uint32: "I",
    c_uint64: "Q",
}


def _codes(structure: type[ctypes.Structure]) -> str:
    codes = []
    for field in structure._fields_:
        kind: Any = field[1]
        if issubclass(kind, ctypes.Structure):
            codes.append(_codes(kind))
        elif issubclass(kind, ctypes.Array):
            codes.append(f"{kind._length_}s")
        else:
            codes.append(_CODES[kind])
    return "".join(codes)


def unpacker(structure: type[ctypes.Structure]) -> struct.Struct:
    """A `struct.Struct` of the same layout, nested members flattened, arrays as bytes.

    Raises ValueError if the layout needs padding that is not a declared member.
    """
    layout = struct.Struct("=" + _codes(structure))
    if layout.size != ctypes.sizeof(structure):
        raise ValueError(f"{structure.__name__} has padding that is not declared")
    return layout


RECORD: Final = unpacker(Record)
FORK: Final = unpacker(ForkRecord)
CANDIDATE: Final = unpacker(CandidateRecord)
EXEC: Final = unpacker(ExecRecord)
EXIT: Final = unpacker(ExitRecord)
OPEN: Final = unpacker(OpenRecord)
CHANGE: Final = unpacker(ChangeRecord)
SOCKET: Final = unpacker(SocketRecord)
DATA: Final = unpacker(DataRecord)
HOLD: Final = unpacker(Hold)
LABEL: Final = unpacker(Label)
WORKLOAD: Final = unpacker(Workload)
WRITTEN: Final = unpacker(Written)
NAME: Final = unpacker(Name)
TOTAL_KEY: Final = unpacker(TotalKey)
FILE_ID: Final = unpacker(FileId)
SETTINGS: Final = unpacker(Settings)
U32: Final = struct.Struct("=I")
U64: Final = struct.Struct("=Q")

PROGRAM_PLACE: Final = slice(
    CandidateRecord.program.offset, CandidateRecord.program.offset + ctypes.sizeof(Program)
)
"""Where the bytes of the program are in a candidate record."""

HOLD_STATE_OFFSET: Final = Hold.state.offset
"""Where `hold.state` is; it is the only member that user space changes."""
