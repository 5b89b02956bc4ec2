"""The Python mirror of bpf/include/net_wire.h: rules on sockets."""

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32
from typing import Final

from agentd.kernel.wire import unpacker

MAX_SOCKET_RULES: Final = 128
SOCKET_RULE_BANKS: Final = 2
SOCKET_RULES_BANK: Final = 0x10000
RULE_EXCEPT: Final = 1
RULE_ASK: Final = 2
RULE_KILL: Final = 4
RULE_BIND: Final = 8
RULE_SOCKET: Final = 16
RULE_UNIX: Final = 32
RULE_ABSTRACT: Final = 64
RULE_IPV6: Final = 128
FAMILY_RAW: Final = 256


class SocketRule(ctypes.Structure):
    _fields_ = (
        ("address", c_uint8 * 16),
        ("prefix", c_uint16),
        ("protocol", c_uint16),
        ("port_low", c_uint16),
        ("port_high", c_uint16),
        ("rule", c_uint32),
        ("flags", c_uint32),
    )


MIRROR: Final[dict[str, type[ctypes.Structure]]] = {"socket_rule": SocketRule}
"""The C name of every struct that is mirrored here."""

SOCKET_RULE: Final = unpacker(SocketRule)
