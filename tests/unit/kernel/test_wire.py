"""The Python mirror of the wire structs against the BTF of the compiled objects, by libbpf."""

import ctypes
import importlib.resources
import re
from collections.abc import Callable, Iterator
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentd.kernel import decide_wire, net_wire, wire

OBJECTS = Path(str(importlib.resources.files("agentd.kernel"))) / "objects"
INCLUDE = Path(__file__).parents[3] / "bpf" / "include"
HEADERS: dict[str, Any] = {"wire.h": wire, "decide_wire.h": decide_wire, "net_wire.h": net_wire}
STRUCT, ENUM = 4, 6  # linux/btf.h

Mirror = dict[str, type[Structure]]


class Member(NamedTuple):
    name: str
    offset: int
    size: int


class Type(Structure):
    """`struct btf_type`; its members follow it."""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("size", c_uint32))


class BtfMember(Structure):
    _fields_ = (("name_off", c_uint32), ("type", c_uint32), ("offset", c_uint32))


class BtfEnumerator(Structure):
    _fields_ = (("name_off", c_uint32), ("value", c_int32))


def library() -> ctypes.CDLL:
    found = ctypes.CDLL("libbpf.so.1")
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "btf__parse": (c_void_p, [c_char_p, c_void_p]),
        "btf__free": (None, [c_void_p]),
        "btf__type_cnt": (c_uint32, [c_void_p]),
        "btf__type_by_id": (POINTER(Type), [c_void_p, c_uint32]),
        "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
        "btf__resolve_size": (c_int64, [c_void_p, c_uint32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Btf:
    """The structs and enumerators of one object file."""

    def __init__(self, path: Path) -> None:
        self._lib = library()
        self._btf = self._lib.btf__parse(str(path).encode(), None)
        assert self._btf, path
        self.structs: dict[str, list[Member]] = {}
        self.sizes: dict[str, int] = {}
        self.enumerators: dict[str, int] = {}
        for number in range(1, self._lib.btf__type_cnt(self._btf)):
            self._read(self._lib.btf__type_by_id(self._btf, number).contents)
        self._lib.btf__free(self._btf)

    def _read(self, kind: Any) -> None:
        name, what, count = self._name(kind), kind.info >> 24 & 0x1F, kind.info & 0xFFFF
        if what == STRUCT and name and count:
            self.sizes[name] = kind.size
            self.structs[name] = [
                Member(
                    self._name(member),
                    (member.offset & 0xFFFFFF) // 8,
                    self._lib.btf__resolve_size(self._btf, member.type),
                )
                for member in self._following(kind, BtfMember, count)
            ]
        elif what == ENUM:
            for value in self._following(kind, BtfEnumerator, count):
                self.enumerators[self._name(value)] = value.value

    def _name(self, entry: Any) -> str:
        return str(self._lib.btf__name_by_offset(self._btf, entry.name_off).decode())

    @staticmethod
    def _following(kind: Structure, entry: type[Structure], count: int) -> Iterator[Any]:
        start = ctypes.addressof(kind) + ctypes.sizeof(Type)
        return iter((entry * count).from_address(start))


@pytest.fixture(scope="module")
def objects() -> dict[str, Btf]:
    found = {path.name: Btf(path) for path in sorted(OBJECTS.glob("*.bpf.o"))}
    assert found, f"no objects in {OBJECTS}; run `make objects`"
    return found


def fields(structure: type[Structure]) -> list[tuple[str, Any]]:
    return [(field[0], field[1]) for field in structure._fields_]


def mirrored(structure: type[Structure]) -> list[Member]:
    found = []
    for name, _ in fields(structure):
        field = getattr(structure, name)
        found.append(Member(name, field.offset, field.size))
    return found


def differences(mirror: Mirror, objects: dict[str, Btf]) -> list[str]:
    """What of the mirror is not as in the objects, in words."""
    found = []
    for name, structure in mirror.items():
        having = {where: btf for where, btf in objects.items() if name in btf.structs}
        if not having:
            found.append(f"struct {name} is in no object")
        for where, btf in having.items():
            if btf.structs[name] != mirrored(structure):
                found.append(f"struct {name} in {where}: {btf.structs[name]}")
            if btf.sizes[name] != ctypes.sizeof(structure):
                found.append(f"size of struct {name} in {where}: {btf.sizes[name]}")
    return found


@pytest.mark.parametrize("header", HEADERS)
def test_every_member_is_where_the_objects_have_it(objects: dict[str, Btf], header: str) -> None:
    assert differences(HEADERS[header].MIRROR, objects) == []


@pytest.mark.parametrize("header", HEADERS)
def test_every_struct_of_the_header_is_mirrored(header: str) -> None:
    text = (INCLUDE / header).read_text()
    names = set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE))
    assert names == set(HEADERS[header].MIRROR)


Fields = list[tuple[str, Any]]
CHANGES: dict[str, Callable[[Fields], Fields]] = {
    "name": lambda f: [*f[:-1], (f[-1][0] + "x", f[-1][1])],
    "order": lambda f: [f[1], f[0], *f[2:]],
    "size": lambda f: [*f[:-1], (f[-1][0], c_char * 3)],
    "one too few": lambda f: f[:-1],
    "one too many": lambda f: [*f, ("more", c_int)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_drift_is_seen(objects: dict[str, Btf], change: str) -> None:
    changed = CHANGES[change](fields(wire.Hold))
    mutated = type("Hold", (Structure,), {"_fields_": changed})
    assert differences({**wire.MIRROR, "hold": mutated}, objects)


def test_a_struct_that_no_object_has_is_seen(objects: dict[str, Btf]) -> None:
    assert differences({"invented": wire.Label}, objects)


def test_enumerators(objects: dict[str, Btf]) -> None:
    """Those that are in BTF; `test_constants` has all that the header spells out."""
    known: dict[str, int] = {}
    for btf in objects.values():
        known |= {name: value for name, value in btf.enumerators.items() if hasattr(wire, name)}
    assert {name: getattr(wire, name) for name in known} == known


def header_constants(header: str) -> dict[str, int]:
    """`#define`s with a number, and enumerators, as the header spells them."""
    text = re.sub(r"/\*.*?\*/", "", (INCLUDE / header).read_text(), flags=re.DOTALL)
    defined = re.findall(r"^#define (\w+)[ \t]+(\w+)[ \t]*$", text, re.MULTILINE)
    found = {name: int(value, 0) for name, value in defined}
    for body in re.findall(r"^enum \w+ \{(.*?)\}", text, re.MULTILINE | re.DOTALL):
        value = -1
        for entry in filter(None, map(str.strip, body.split(","))):
            name, _, given = entry.partition("=")
            value = int(given, 0) if given else value + 1
            found[name.strip()] = value
    return found


@pytest.mark.parametrize("header", HEADERS)
def test_constants(header: str) -> None:
    constants = header_constants(header)
    assert len(constants) > 10
    assert {name: getattr(HEADERS[header], name, None) for name in constants} == constants


def test_unpackers_have_no_hidden_padding() -> None:
    class Padded(Structure):
        _fields_ = (("one", c_uint16), ("two", c_uint64))

    with pytest.raises(ValueError, match="padding"):
        wire.unpacker(Padded)
    assert wire.unpacker(wire.Record).size == ctypes.sizeof(wire.Record)


def test_unpacked_values() -> None:
    hold = wire.Hold(id=1, tgid=2, workload=3, kind=4, address=5, access=6)
    values = wire.HOLD.unpack(bytes(hold))
    names = [name for name, _ in fields(wire.Hold)]
    told = dict(zip(names, values, strict=True))
    assert told == {name: getattr(hold, name) for name in names}
