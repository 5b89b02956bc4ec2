"""Path globs -> the tables by which the kernel matches all of them at once (bpf/include/glob.h).

A glob is a row of positions, one for each component, from the last component to the first; rows lie
next to each other, and bit n of a bitset is position n of them all. A matcher goes through a path
from its leaf up and keeps the set of positions that it has reached.

Globs of one rule that differ in a single component share a row, whose position there takes either
name: `/etc/cron.{d,daily}/*` has three positions.

What the tables can say is less than what globs can: `*` once in a component, and literal parts of a
bounded length. Any other glob is compiled so that it finds too much, never too little, and is named
in `inexact`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Literal, NamedTuple

from agentd.policy.globs import expand_braces, home_directories, path_glob

MAX_POSITIONS = 1024  # POSITIONS in bpf/include/decide_wire.h
EDGE_LEN = 23  # bytes of the beginning and of the end of a name that are compared
WORD_LEN = 63  # bytes of a whole name that are compared: a longer name looks like its first 63
MAX_HOMES = 8

End = Literal["anywhere", "home", "root"]
Name = bytes | tuple[bytes, bytes]  # a literal, or how a name with one wildcard begins and ends
Cell = frozenset[Name]

ANY: Name = (b"", b"")
NOTHING: frozenset[tuple[int, bool]] = frozenset()
_ENDS: dict[str, End] = {"": "root", "~": "home", "**": "anywhere"}
_SPECIAL = re.compile(r"[\\*?\[]")
# In PathGlob this `*` also stands for the nothing before the first slash: `**/*/a` matches `/a`.
_NEEDLESS = re.compile(r"\A(?:\*\*/)+\*/")
# An escaped character, a wildcard, or a character; a class takes its first one whatever it is.
_PIECE = re.compile(r"\\(.)|(\*|\?|\[[!^]?+.[^\]]*\])|(.)", re.DOTALL)

TOO_MANY = f"more than {MAX_POSITIONS} positions"


class SlotGlobs(NamedTuple):
    """The path globs of one rule; a rule for all paths has `**`.

    excepted: the globs of `except:`, and those with `!`, without it.
    """

    slot: int
    globs: Sequence[str]
    excepted: Sequence[str] = ()


class _Row(NamedTuple):
    """Globs as positions, from the leaf up; `repeats`: where more components may follow."""

    cells: tuple[Cell, ...]
    repeats: tuple[bool, ...]
    end: End
    is_except: bool


@dataclass(slots=True)
class Automaton:
    """The tables; every bitset is an int whose bit n is position n."""

    words: dict[bytes, int] = field(default_factory=dict)
    """Name of at most WORD_LEN bytes -> where a glob has it literally."""
    starts: dict[bytes, int] = field(default_factory=dict)
    """How a name begins -> the positions that fit such a beginning, or a beginning of it."""
    ends: dict[bytes, int] = field(default_factory=dict)
    """The same for how a name ends, read backwards. A position fits that is found in both."""
    any: int = 0
    """Every name fits."""
    repeat: int = 0
    """Any number of components may follow."""
    first: int = 0
    """A glob begins."""
    anywhere: int = 0
    """A glob ends that may lie in any directory."""
    home: int = 0
    """A glob ends that lies in /root or /home/NAME."""
    root: int = 0
    """A glob ends that is absolute."""
    accepts: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Position where a glob ends -> its slot, and whether it is an exception."""
    positions: int = 0
    """How many are in use."""
    inexact: dict[int, list[str]] = field(default_factory=dict)
    """Slot -> the globs for which it is found too often, each with the reason."""
    missed: dict[int, list[str]] = field(default_factory=dict)
    """Slot -> the globs that are not found, or not everywhere, each with the reason."""

    def match(self, path: str) -> set[int]:
        """The slots of which some glob matches a canonical path and no exception does.

        Follows bpf/include/glob.h step by step; `/` itself has no name and matches nothing. The
        path is as os.fsdecode gives it; raises UnicodeEncodeError for a text that no path decodes
        to.
        """
        names = [name for name in os.fsencode(path).split(b"/") if name]
        at = 0
        found: set[tuple[int, bool]] = set()
        below = above = in_home = in_root = NOTHING
        for steps, name in enumerate(reversed(names)):
            in_home = above if name == b"home" else NOTHING
            in_root = below if name == b"root" else NOTHING
            above = below
            reached = (at << 1) & ~self.first if steps else self.first
            at = (reached & self._fits(name)) | (at & self.repeat)
            found |= self._accepted(at & self.anywhere)
            below = self._accepted(at & self.home)
        found |= self._accepted(at & self.root) | in_home | in_root
        excepted = {slot for slot, is_except in found if is_except}
        return {slot for slot, is_except in found if not is_except} - excepted

    def _fits(self, name: bytes) -> int:
        start = _longest(self.starts, name[:EDGE_LEN])
        end = _longest(self.ends, name[: -EDGE_LEN - 1 : -1])
        return self.any | self.words.get(name[:WORD_LEN], 0) | (start & end)

    def _accepted(self, at: int) -> frozenset[tuple[int, bool]]:
        return frozenset(self.accepts[position] for position in _bits(at))


def compile_globs(rules: Iterable[SlotGlobs], homes: Sequence[str] | None = None) -> Automaton:
    """The tables for these rules, each with a slot of its own: the higher, the more severe.

    homes: the home directories outside /root and /home; by default those of /etc/passwd. Where the
    positions do not suffice, first homes are left out, then rules, of the lowest slots before
    others. Raises GlobError.
    """
    others = tuple(home_directories() if homes is None else homes)
    automaton = Automaton()
    placed: list[tuple[int, list[tuple[str, bool]]]] = []
    for rule in sorted(rules, key=lambda rule: rule.slot, reverse=True):
        globs = list(_expanded(rule))
        if _add(automaton, rule.slot, _rows(automaton, rule.slot, _usual_homes(globs))):
            placed.append((rule.slot, globs))
        else:
            automaton.missed[rule.slot] = [
                f"{text}: {TOO_MANY}" for text, is_except in globs if not is_except
            ]
    for slot, globs in placed:
        _add_homes(automaton, slot, [glob for glob in globs if glob[0].startswith("~")], others)
    automaton.starts = _with_prefixes(automaton.starts)
    automaton.ends = _with_prefixes(automaton.ends)
    return automaton


def _add(automaton: Automaton, slot: int, rows: list[_Row]) -> bool:
    """Give the rows their positions; False if there is no room for all of them."""
    if automaton.positions + sum(len(row.cells) for row in rows) > MAX_POSITIONS:
        return False
    for row in rows:
        automaton.first |= 1 << automaton.positions
        for cell, repeats in zip(row.cells, row.repeats, strict=True):
            _fill(automaton, cell, 1 << automaton.positions)
            automaton.repeat |= repeats << automaton.positions
            automaton.positions += 1
        last = automaton.positions - 1
        automaton.accepts[last] = (slot, row.is_except)
        match row.end:
            case "anywhere":
                automaton.anywhere |= 1 << last
            case "home":
                automaton.home |= 1 << last
            case "root":
                automaton.root |= 1 << last
    return True


def _fill(automaton: Automaton, cell: Cell, bit: int) -> None:
    for name in cell:
        if name == ANY:
            automaton.any |= bit
        elif isinstance(name, bytes):
            automaton.words[name] = automaton.words.get(name, 0) | bit
        else:
            start, end = name[0], name[1][::-1]
            automaton.starts[start] = automaton.starts.get(start, 0) | bit
            automaton.ends[end] = automaton.ends.get(end, 0) | bit


def _expanded(rule: SlotGlobs) -> Iterator[tuple[str, bool]]:
    for globs, is_except in ((rule.globs, False), (rule.excepted, True)):
        for glob in globs:
            for text in expand_braces(glob):
                yield path_glob(text).text, is_except


def _usual_homes(globs: list[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """`~` itself has no component that lies in a home directory: two globs say what it is."""
    for text, is_except in globs:
        for meant in ("/root", "/home/*") if text == "~" else (text,):
            yield meant, is_except


def _add_homes(
    automaton: Automaton, slot: int, globs: list[tuple[str, bool]], homes: tuple[str, ...]
) -> None:
    """Compile globs with `~` for other homes too, as far as there is room."""
    used = homes[:MAX_HOMES]
    below = [
        (_SPECIAL.sub(r"\\\g<0>", home) + text[1:], is_except)
        for text, is_except in globs
        for home in used
    ]
    if not _add(automaton, slot, _rows(automaton, slot, below)):
        used = ()
    if len(used) == len(homes):
        return
    left_out = ", ".join(homes[len(used) :])
    for text, is_except in globs:
        into = automaton.inexact if is_except else automaton.missed
        into.setdefault(slot, []).append(f"{text}: left out for {left_out}")


def _rows(automaton: Automaton, slot: int, globs: Iterable[tuple[str, bool]]) -> list[_Row]:
    """The rows of globs without braces; what they do not say exactly is noted."""
    rows: list[_Row] = []
    for text, is_except in globs:
        row, reasons = _row(text, is_except=is_except)
        if reasons:
            note = f"{text}: {', '.join(reasons)}"
            automaton.inexact.setdefault(slot, []).append(note)
        # An exception that finds too much would let through what the rule is there to stop.
        if row is not None and not (reasons and is_except):
            rows.append(row)
    return _joined(rows)


def _row(text: str, *, is_except: bool) -> tuple[_Row | None, list[str]]:
    """One glob, None if no path can match it; and why it finds too much, if it does."""
    head, *components = _NEEDLESS.sub("**/", text).split("/")
    cells: list[Cell] = []
    repeats: list[bool] = []
    reasons: list[str] = []
    for component in reversed(components or ["*"]):  # `**` alone
        if component == "**" and cells:
            repeats[-1] = True
            continue
        name, reason = (ANY, "") if component == "**" else _name(component)
        if name is None:
            return None, []
        if reason:
            reasons.append(reason)
        cells.append(frozenset([name]))
        repeats.append(component == "**")
    return _Row(tuple(cells), tuple(repeats), _ENDS[head], is_except), reasons


def _name(component: str) -> tuple[Name | None, str]:
    """What a component is compared by, None if no name fits it; and why that is not exact."""
    runs = [""]
    wildcards: list[str] = []
    for escaped, wildcard, plain in _PIECE.findall(component):
        if wildcard:
            runs.append("")
            wildcards.append(wildcard)
        else:
            runs[-1] += escaped or plain
    if runs == [""] or any("\0" in run for run in runs):
        return None, ""
    try:
        start, end = runs[0].encode(), runs[-1].encode()
    except UnicodeEncodeError:
        return ANY, "not UTF-8"
    if not wildcards:
        long = len(start) >= WORD_LEN
        return start[:WORD_LEN], f"a name longer than {WORD_LEN - 1} bytes" if long else ""
    return (start[:EDGE_LEN], end[-EDGE_LEN:]), _excess(start, end, wildcards)


def _excess(start: bytes, end: bytes, wildcards: list[str]) -> str:
    """Why a name may begin and end so and yet not be what is meant; "" if it cannot."""
    if set(wildcards) != {"*"}:
        return "'?' or a class"
    if len(wildcards) > 1:
        return "more than one '*' in a component"
    if max(len(start), len(end)) > EDGE_LEN:
        return f"more than {EDGE_LEN} bytes before or after '*'"
    if any(start.endswith(end[:size]) for size in range(1, len(end) + 1)):
        return "what is before '*' may overlap what is after it"
    return ""


def _joined(rows: list[_Row]) -> list[_Row]:
    """The same paths in fewer rows: those that differ in one cell become one."""
    rows = list(dict.fromkeys(rows))
    before = len(rows) + 1
    while len(rows) < before:
        before = len(rows)
        for column in range(max((len(row.cells) for row in rows), default=0)):
            rows = _joined_at(rows, column)
    return rows


def _joined_at(rows: list[_Row], column: int) -> list[_Row]:
    groups: dict[tuple[object, ...], list[_Row]] = {}
    for row in rows:
        before, cell, after = row.cells[:column], row.cells[column:][:1], row.cells[column + 1 :]
        group = groups.setdefault((before, len(cell), after, *row[1:]), [])
        for index, other in enumerate(group):
            union = _union([*cell, *other.cells[column:][:1]])
            if union is not None:
                group[index] = row._replace(cells=(*before, union, *after))
                break
        else:
            group.append(row)
    return [row for group in groups.values() for row in group]


def _union(cells: list[Cell]) -> Cell | None:
    """Two cells as one; None if they would fit more together than apart, or there are none."""
    names = frozenset[Name]().union(*cells)
    if ANY in names:
        return frozenset([ANY])
    edges = [name for name in names if not isinstance(name, bytes)]
    # The beginning of one and the end of the other would do: one of the two must be the same.
    alike = any(len({edge[side] for edge in edges}) < 2 for side in (0, 1))
    return names if names and alike else None


def _with_prefixes(table: dict[bytes, int]) -> dict[bytes, int]:
    """Each entry with what its own prefixes have: the kernel takes only the longest that fits."""
    if not table:
        return {}
    return {
        key: reduce(or_, (table.get(key[:size], 0) for size in range(len(key) + 1)))
        for key in sorted({b"", *table})
    }


def _longest(table: dict[bytes, int], text: bytes) -> int:
    """The value of the longest key that the text begins with, 0 if there is none."""
    for size in range(len(text), -1, -1):
        if (bits := table.get(text[:size])) is not None:
            return bits
    return 0


def _bits(bitset: int) -> Iterator[int]:
    while bitset:
        yield (bitset & -bitset).bit_length() - 1
        bitset &= bitset - 1
