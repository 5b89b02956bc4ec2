"""The maps by which the kernel decides alone, in the words of the domain.

Two versions of the policy lie side by side; `install` writes the one that is not in force and then
names it, so that at no moment a denial is missing.
"""

import ctypes
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.kernel.answers import answer_to
from agentd.kernel.decide_wire import (
    ACCEPT,
    ACTS,
    ANSWER,
    EDGE,
    EDGE_LEN,
    INODE_KEY,
    MATCH_WORDS,
    MAX_SLOTS,
    PATH_RULE,
    POSITIONS,
    SIGNALS,
    SLOT_WORDS,
    VERSION_BITS,
    VERSIONS,
    WORD,
    Mark,
    bitset,
)
from agentd.kernel.inodes import Inode
from agentd.kernel.libbpf import Map
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import MAX_WORKLOADS, NAME_LEN, U32, U64, Enforcing

_POSITIONS_SIZE: Final = MATCH_WORDS * 8
_SLOTS_SIZE: Final = SLOT_WORDS * 8
_MARK_SIZE: Final = ctypes.sizeof(Mark)
_VALID_AT: Final = Mark.valid.offset
_VERSION_WORD, _ARMED_WORD = Enforcing.version.offset // 4, Enforcing.armed.offset // 4
ALL_SLOTS: Final = (1 << MAX_SLOTS) - 1


@dataclass(slots=True)
class Tables:
    """One version of the path rules. Bit sets are integers: bit n is position n, or slot n."""

    words: dict[bytes, int] = field(default_factory=dict)
    starts: dict[bytes, int] = field(default_factory=dict)
    ends: dict[bytes, int] = field(default_factory=dict)
    """Backwards."""
    sets: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    """any, repeat, first, anywhere, home, root: the members of `struct match_table`."""
    accepts: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Position -> slot, and whether it is an exception."""
    rules: list[tuple[int, int, bool]] = field(default_factory=list)
    """By slot: ACTION_, the number of the rule, whether observed workloads are bound by it."""
    signals: dict[int, int] = field(default_factory=dict)
    """Signal -> slots."""


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """Which slots bind a workload."""

    acts: list[int] = field(default_factory=lambda: [0] * ACTS)
    """By ACT_, as bit sets."""
    own: int = 0
    """Those for whatever lies below agentd's own places."""
    unnamed: int = 0
    """Those that apply whatever the path is."""
    observed: bool = False
    """What rules say is told and not carried out."""


class Decisions:
    """Typed access to the maps of the enforce tiers."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps = maps
        memory = mmap.mmap(
            maps["enforcing"].fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._words32 = memoryview(memory).cast("I")

    @property
    def version(self) -> int:
        """The version in force: 0 or 1."""
        return self._words32[_VERSION_WORD] % VERSIONS

    @property
    def next_version(self) -> int:
        """The version that `install` will put in force."""
        return self._next_count % VERSIONS

    @property
    def _next_count(self) -> int:
        return (self._words32[_VERSION_WORD] + self._words32[_ARMED_WORD]) & 0xFFFFFFFF

    def install(
        self, tables: Tables, workloads: Mapping[int, WorkloadRules], moves: Mapping[int, int]
    ) -> int:
        """Puts a version in force; returns its number.

        `workloads`: by number. `moves`: slot in the version
        before -> slot in this one, for the rules that mean the same: what inodes have been called
        is carried over.
        """
        version = self.next_version
        self._clear(version)
        self._write(tables, version)
        for number in range(MAX_WORKLOADS):
            self.set_workload(number, workloads.get(number), version)
        self._move_marks(version, moves)
        self._words32[_VERSION_WORD] = self._next_count
        self._words32[_ARMED_WORD] = 1
        self._move_marks(version, moves)  # those that were made meanwhile
        return version

    def set_homes(self, homes: Iterable[Inode | None]) -> None:
        """The home directories that lie neither in /home nor are /root; None: is not there."""
        table = self._maps["homes"]
        fresh = {INODE_KEY.pack(*home) for home in homes if home is not None}
        for key in fresh:
            table.put(key, U32.pack(1))
        for key in set(table.keys()) - fresh:
            table.delete(key)

    def set_own_places(self, places: Iterable[Inode]) -> None:
        """The directories and files that agentd protects, with what is below them."""
        table = self._maps["own_places"]
        fresh = {INODE_KEY.pack(*place) for place in places}
        for key in fresh:
            table.put(key, U32.pack(1))
        for key in set(table.keys()) - fresh:
            table.delete(key)

    def set_workload(self, number: int, rules: WorkloadRules | None, version: int) -> None:
        """The rules of one workload in one version; None if it has none."""
        rules = rules or WorkloadRules()
        some = sum(1 << act for act, slots in enumerate(rules.acts) if slots)
        sets = (*rules.acts, rules.own, rules.unnamed)
        value = b"".join(bitset(slots, _SLOTS_SIZE) for slots in sets)
        value += U64.pack(some) + U64.pack(rules.observed)
        self._maps["act_rules"].put(U32.pack(version * MAX_WORKLOADS + number), value)

    def mark(self, inode: Inode, slots: int) -> None:
        """An inode has had a name that these rules of the version in force match.

        The kernel forgets it with the file: that must not be gone yet, so the caller holds it
        (`InodeReader.held`). Raises KernelError if there is no room.
        """
        version = self.version
        key = INODE_KEY.pack(*inode)
        value = bytearray(self._maps["marks"].get(key) or bytes(_MARK_SIZE))
        at = version * _SLOTS_SIZE
        known = int.from_bytes(value[at : at + _SLOTS_SIZE], "little")
        value[at : at + _SLOTS_SIZE] = bitset(known | slots, _SLOTS_SIZE)
        valid = U32.unpack_from(value, _VALID_AT)[0] | 1 << version
        U32.pack_into(value, _VALID_AT, valid)
        self._maps["marks"].put(key, bytes(value))

    def marked(self, inode: Inode) -> int:
        """The slots of the version in force that an inode is marked with."""
        value = self._maps["marks"].get(INODE_KEY.pack(*inode))
        at = self.version * _SLOTS_SIZE
        return int.from_bytes(value[at : at + _SLOTS_SIZE], "little") if value else 0

    def answer(self, hold: HoldValue, result: int, now_ns: int) -> None:
        """The verdict on a held call, as in `answers.answer_to`."""
        self._maps["answers"].put(*answer_to(hold, result, now_ns))

    def drop_stale_answers(self, now_ns: int) -> None:
        """Forgets answers that nobody came for."""
        answers = self._maps["answers"]
        for key, value in answers.items():
            if ANSWER.unpack(value)[6] < now_ns:
                answers.delete(key)

    def _clear(self, version: int) -> None:
        for name, layout in (("words", WORD), ("starts", EDGE), ("ends", EDGE)):
            table = self._maps[name]
            at = 0 if layout is WORD else 1  # where in the unpacked key the version is
            for key in list(table.keys()):
                if layout.unpack(key)[at] == version:
                    table.delete(key)

    def _write(self, tables: Tables, version: int) -> None:
        for text, positions in tables.words.items():
            key = WORD.pack(version, text.ljust(NAME_LEN, b"\0"))
            self._maps["words"].put(key, bitset(positions, _POSITIONS_SIZE))
        for name, edges in (("starts", tables.starts), ("ends", tables.ends)):
            for text, positions in edges.items():
                bits = VERSION_BITS + 8 * len(text)
                key = EDGE.pack(bits, version, text.ljust(EDGE_LEN, b"\0"))
                self._maps[name].put(key, bitset(positions, _POSITIONS_SIZE))
        sets = b"".join(bitset(each, _POSITIONS_SIZE) for each in tables.sets)
        self._maps["match_tables"].put(U32.pack(version), sets)
        for position, (slot, is_except) in tables.accepts.items():
            key = U32.pack(version * POSITIONS + position)
            self._maps["accepts"].put(key, ACCEPT.pack(slot, is_except))
        for slot, (action, number, always) in enumerate(tables.rules):
            key = U32.pack(version * MAX_SLOTS + slot)
            self._maps["path_rules"].put(key, PATH_RULE.pack(action, number, always, 0))
        if "signal_rules" in self._maps:
            for number in range(SIGNALS):
                key = U32.pack(version * SIGNALS + number)
                slots = bitset(tables.signals.get(number, 0), _SLOTS_SIZE)
                self._maps["signal_rules"].put(key, slots)

    def _move_marks(self, version: int, moves: Mapping[int, int]) -> None:
        """Gives every mark its slots in this version, by those that it has in the other one."""
        marks = self._maps["marks"]
        other = (version + 1) % VERSIONS
        for key, raw in marks.items():
            value = bytearray(raw)
            at, there = other * _SLOTS_SIZE, version * _SLOTS_SIZE
            before = int.from_bytes(value[at : at + _SLOTS_SIZE], "little")
            valid = U32.unpack_from(value, _VALID_AT)[0]
            if not valid & 1 << other:
                continue  # made under this version
            now = sum(1 << moves[slot] for slot in _bits(before) if slot in moves)
            if valid & 1 << version and self.version == version:
                now |= int.from_bytes(value[there : there + _SLOTS_SIZE], "little")
            value[there : there + _SLOTS_SIZE] = bitset(now, _SLOTS_SIZE)
            U32.pack_into(value, _VALID_AT, valid | 1 << version)
            if now or self.version == version:
                marks.put(key, bytes(value))


def _bits(number: int) -> Iterable[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low
