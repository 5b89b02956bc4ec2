"""The Python mirror of bpf/include/decide_wire.h: the policy that the kernel decides by alone."""

import ctypes
from ctypes import c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Final

from agentd.kernel.wire import NAME_LEN, Record, unpacker

VERSIONS: Final = 2
POSITIONS: Final = 1024
MATCH_WORDS: Final = 16
MAX_SLOTS: Final = 256
SLOT_WORDS: Final = 4
EDGE_LEN: Final = 23

ACT_READ: Final = 0
ACT_WRITE: Final = 1
ACT_DELETE: Final = 2
ACT_RENAME: Final = 3
ACT_EXEC: Final = 4
ACT_CONNECT: Final = 5
ACT_TRACE_READ: Final = 6
ACT_TRACE_ATTACH: Final = 7
ACT_SIGNAL: Final = 8
ACT_NS_USER: Final = 9
ACT_NS_CREATE: Final = 10
ACT_NS_JOIN: Final = 11
ACT_MOUNT: Final = 12
ACT_BIND: Final = 13
ACT_MOVE: Final = 14
ACT_UMOUNT: Final = 15
ACT_BPF: Final = 16
ACTS: Final = 17

SELF_RULE: Final = 0xFFFE
NO_RULE: Final = 0xFFFF

ACTION_ASK: Final = 1
ACTION_DENY: Final = 2
ACTION_KILL: Final = 3
ACTION_TELL: Final = 4

HOOK_OPEN: Final = 1
HOOK_MAP: Final = 2
HOOK_RECEIVE: Final = 3
HOOK_LINK: Final = 4
HOOK_RENAME: Final = 5
HOOK_DELETE: Final = 6
HOOK_TRUNCATE: Final = 7
HOOK_ATTRIBUTES: Final = 8
HOOK_EXEC: Final = 9
HOOK_INTERPRETER: Final = 10
HOOK_CONNECT: Final = 11
HOOK_SEND: Final = 12
HOOK_BIND: Final = 13
HOOK_SOCKET: Final = 14
HOOK_WRITE: Final = 15
HOOK_TRACE: Final = 32
HOOK_SIGNAL: Final = 33
HOOK_NAMESPACE: Final = 34
HOOK_MOUNT: Final = 35
HOOK_BPF: Final = 36
HOOK_CONTROL: Final = 37

SIGNALS: Final = 65

SOCKET_RULE_BASE: Final = 0x10000


class Positions(ctypes.Structure):
    _fields_ = (("w", c_uint64 * MATCH_WORDS),)


class Slots(ctypes.Structure):
    _fields_ = (("w", c_uint64 * SLOT_WORDS),)


class Word(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("text", c_char * NAME_LEN))


class Edge(ctypes.Structure):
    _fields_ = (("prefixlen", c_uint32), ("version", c_uint8), ("text", c_uint8 * EDGE_LEN))


class MatchTable(ctypes.Structure):
    _fields_ = (
        ("any", Positions),
        ("repeat", Positions),
        ("first", Positions),
        ("anywhere", Positions),
        ("home", Positions),
        ("root", Positions),
    )


class Accept(ctypes.Structure):
    _fields_ = (("slot", c_uint16), ("except", c_uint16))


class ActRules(ctypes.Structure):
    _fields_ = (
        ("acts", Slots * ACTS),
        ("self", Slots),
        ("unnamed", Slots),
        ("some", c_uint64),
        ("observed", c_uint64),
    )


class PathRule(ctypes.Structure):
    _fields_ = (
        ("action", c_uint32),
        ("number", c_uint32),
        ("always", c_uint32),
        ("pad", c_uint32),
    )


class InodeKey(ctypes.Structure):
    _fields_ = (("ino", c_uint64), ("dev", c_uint32), ("kind", c_uint32))


class Mark(ctypes.Structure):
    _fields_ = (("slots", Slots * VERSIONS), ("valid", c_uint32), ("pad", c_uint32))


class RefusalRecord(ctypes.Structure):
    _fields_ = (
        ("head", Record),
        ("ino", c_uint64),
        ("dev", c_uint32),
        ("hook", c_uint32),
        ("acts", c_uint32),
        ("action", c_uint32),
        ("rule", c_uint32),
        ("version", c_uint32),
        ("path_len", c_uint32),
        ("to_len", c_uint32),
        ("target", c_uint32),
        ("detail", c_uint32),
    )


class Subject(ctypes.Structure):
    _fields_ = (
        ("a", c_uint64),
        ("b", c_uint64),
        ("c", c_uint64),
        ("hook", c_uint32),
        ("acts", c_uint32),
    )


class AnswerKey(ctypes.Structure):
    _fields_ = (("thread", c_uint64), ("hook", c_uint32), ("pad", c_uint32))


class Answer(ctypes.Structure):
    _fields_ = (
        ("subject", Subject),
        ("start_ns", c_uint64),
        ("until_ns", c_uint64),
        ("result", c_int32),
        ("version", c_uint32),
    )


class SignalRule(ctypes.Structure):
    _fields_ = (("slots", Slots),)


class Guarded(ctypes.Structure):
    _fields_ = (("start_ns", c_uint64),)


MIRROR: Final[dict[str, type[ctypes.Structure]]] = {
    "positions": Positions,
    "slots": Slots,
    "word": Word,
    "edge": Edge,
    "match_table": MatchTable,
    "accept": Accept,
    "act_rules": ActRules,
    "path_rule": PathRule,
    "inode_key": InodeKey,
    "mark": Mark,
    "refusal_record": RefusalRecord,
    "subject": Subject,
    "answer_key": AnswerKey,
    "answer": Answer,
    "signal_rule": SignalRule,
    "guarded": Guarded,
}
"""The C name of every struct that is mirrored here."""

REFUSAL: Final = unpacker(RefusalRecord)
ANSWER_KEY: Final = unpacker(AnswerKey)
ANSWER: Final = unpacker(Answer)
INODE_KEY: Final = unpacker(InodeKey)
PATH_RULE: Final = unpacker(PathRule)
ACCEPT: Final = unpacker(Accept)
GUARDED: Final = unpacker(Guarded)
WORD: Final = unpacker(Word)
EDGE: Final = unpacker(Edge)
VERSION_BITS: Final = 8
"""How many bits of an edge's `prefixlen` its version takes."""


def bitset(bits: int, size: int) -> bytes:
    """`struct positions` or `struct slots` (by `size` in bytes): bit n of `bits` is bit n there."""
    return bits.to_bytes(size, "little")
