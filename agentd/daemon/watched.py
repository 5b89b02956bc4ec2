"""Files that rules name, watched by inode: a hard link or a new name does not hide a file.

A file is enrolled when the rules are loaded, when it is found later under a watched name, and when
an open or a rename shows it. It stays enrolled, under the name that made it one, until the rules
change or it turns out to be gone, with a later file having its number.
"""

import contextlib
import glob as globbing
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from agentd.kernel.inodes import Found, Inode, InodeReader
from agentd.kernel.maps import KernelMaps
from agentd.kernel.wire import NAME_HOLD, NAME_RUN, NAME_WATCH, NAME_WRITE_ONLY
from agentd.policy.globs import PathIndex, expand_braces, home_directories, split_negated
from agentd.policy.rules import Policy, Rule

_BINDING: Final = frozenset({"deny", "hold", "kill"})
_FILES_MAX: Final = 8192
_TREE_MAX: Final = 1024
_SETTLED_NS: Final = 1_000_000_000  # a younger directory may change again within its timestamp
_PROGRAM_PLACES: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")


class Wanted(NamedTuple):
    """A name, or a glob of names, in some directory, and the NAME_ flags of what is found."""

    name: str
    flags: int


class Known(NamedTuple):
    """A watched file: the name that made it one, its NAME_ flags, its handle (b"": unknown)."""

    name: str
    flags: int
    handle: bytes


class State(NamedTuple):
    """Of a directory; it changes with every name that comes or goes in it."""

    dev: int
    ino: int
    changed_ns: int

    def settled(self) -> bool:
        """Whether one more change would have another time."""
        return time.time_ns() - self.changed_ns > _SETTLED_NS


class WatchedFiles:
    """The kernel's map of watched inodes, and the name that each is watched for."""

    def __init__(self, kernel: KernelMaps) -> None:
        self._kernel = kernel
        self._known: dict[Inode, Known] = {}
        self._index = PathIndex()
        self._flags: list[int] = []
        self._wanted: dict[str, list[Wanted]] = {}
        self._scanned: dict[str, State] = {}
        self._absent: dict[str, tuple[str, State]] = {}
        """Directories that are not there, and the state of what would have to change first."""
        self._trees: dict[str, bool] = {}
        """Directories of which a rule names all that is below (True), and those below them."""
        self.mark: Callable[[Inode, str, str], None] | None = None
        """Where the kernel decides: marks an inode with the rules that a name of it matches; the
        other path is where it is now."""

    def load(self, policy: Policy) -> None:
        """Forgets what another policy watched, and enrols what exists now."""
        self._index = PathIndex()
        self._flags = []
        self._wanted = {}
        self._scanned = {}
        self._absent = {}
        self._trees = {}
        for rule in policy.rules:
            if rule.on == "file.open":
                self._add_files(rule)
            elif rule.on == "process.exec" and rule.action in _BINDING:
                for place in _programs(rule):
                    self._want(place, NAME_RUN)
        self._kernel.forget_files()
        self._known.clear()
        self.rescan()

    def rescan(self) -> None:
        """Enrols files that have come into being under a watched name without an event.

        Only directories that have changed are read; about 2 us for each of the others, and for
        each that some absent ones would be in.
        """
        reader: InodeReader | None = None
        places = list(self._wanted)
        states: dict[str, State | None] = {}
        for directory in places:
            absent = self._absent.get(directory)
            if absent is not None:
                above, before = absent
                if above not in states:
                    states[above] = _state(above)
                if states[above] == before:
                    continue
                del self._absent[directory]
            state = _state(directory)
            if state is None:
                self._is_absent(directory)
                continue
            if self._scanned.get(directory) == state:
                continue
            if state.settled():
                self._scanned[directory] = state
            reader = reader or InodeReader()
            for name, flags in self._wanted[directory]:
                place = f"{directory}/{name}"
                for path in globbing.glob(place) if globbing.has_magic(name) else (place,):
                    self._enrol(reader.find(path, follow=flags != NAME_RUN), path, flags)
            if directory in self._trees:
                places += self._look_into(directory, reader)

    def _is_absent(self, directory: str) -> None:
        self._scanned.pop(directory, None)
        if self._trees.get(directory) is False:
            del self._trees[directory], self._wanted[directory]
            return
        above, missing = os.path.dirname(directory), directory
        while (state := _state(above)) is None and above != missing:
            above, missing = os.path.dirname(above), above
        # What a link leads to may appear without a change here.
        if state is not None and state.settled() and not os.path.lexists(missing):
            self._absent[directory] = above, state

    def _look_into(self, directory: str, reader: InodeReader) -> list[str]:
        """Enrols what lies in a directory of a tree; returns directories in it that are new."""
        new = []
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    path = entry.path
                    self._enrol(reader.find(path, follow=False), path, self._flags_of(path))
                elif entry.path not in self._trees and len(self._trees) < _TREE_MAX:
                    new.append(entry.path)
        new = [directory for directory in new if directory not in self._wanted]
        self._trees |= dict.fromkeys(new, False)
        self._wanted |= {directory: [] for directory in new}
        return new

    def name(self, found: Found) -> str | None:
        """The name for which a file is watched, whatever it was opened as.

        One that only has the number of a watched file that is gone is watched no longer, unless
        it has the name as well.
        """
        known = self._known.get(found.inode)
        if known is None:
            return None
        if _differ(found.handle, known.handle):
            if InodeReader().find(known.name, follow=False) != found:
                del self._known[found.inode]
                self._kernel.unwatch_file(found.inode.ino, found.inode.dev)
                return None
            self._known[found.inode] = known._replace(handle=found.handle)
        return known.name

    def seen(self, path: str, found: Found) -> None:
        """An open has shown that this file has this path."""
        if self._flags and (flags := self._flags_of(path)):
            self._enrol(found, path, flags)

    def moved(self, path: str, to: str) -> None:
        """A file, or a directory with what is below it, has got a new name or another one."""
        if not self._flags:
            return
        moved = [(path, to)]
        if os.path.isdir(to):
            moved = [(path + below[len(to) :], below) for below in _files_below(to)]
        reader: InodeReader | None = None
        for before, now in moved:
            if flags := self._flags_of(before):
                reader = reader or InodeReader()
                self._enrol(reader.find(now, follow=False), before, flags, now)

    def settle(self, session: int, time_ns: int) -> None:
        """What a session has moved up to then is enrolled: its opens need not wait for that."""
        self._kernel.settle_moves(session, time_ns)

    def leaves(self, path: str) -> None:
        """A directory is about to lose its name, and with it what is below."""
        if self.mark is None:
            return
        reader = InodeReader()
        for below in _files_below(path):
            inode = reader.read(below, follow=False)
            if inode is not None:
                self.mark(inode, below, below)

    def _flags_of(self, path: str) -> int:
        """NAME_ flags of all rules whose globs match; WRITE_ONLY only if each of them has it."""
        merged = 0
        for owner in self._index.owners(path):
            merged = _merged(merged, self._flags[owner])
        return merged

    def _enrol(self, found: Found | None, path: str, flags: int, place: str = "") -> None:
        """`place` is where it is now, if not at the path that makes it one to watch."""
        if found is None:
            return
        inode, handle = found
        if self.mark is not None:
            self.mark(inode, path, place or path)
        known = self._known.get(inode)
        if known is None or _differ(handle, known.handle):
            if known is None and len(self._known) >= _FILES_MAX:
                return
            known = Known(path, flags | self._flags_of(path), handle)
        elif flags & ~known.flags or (handle and not known.handle):
            known = Known(known.name, _merged(known.flags, flags), known.handle or handle)
        else:
            return
        if self._kernel.watch_file(inode.ino, inode.dev, known.flags):
            self._known[inode] = known

    def _add_files(self, rule: Rule) -> None:
        """Makes the globs of a rule known."""
        flags = NAME_HOLD if rule.action in _BINDING else NAME_WATCH
        if rule.match.access == ("write",):
            flags |= NAME_WRITE_ONLY
        owner = len(self._flags)
        self._flags.append(flags)
        positive, _ = split_negated(rule.match.path or ())
        for text in positive:
            self._index.add(text, owner)
            for place in _places(text):
                self._want(place, flags)
            for tree in _trees(text):
                self._trees[tree] = True
                self._wanted.setdefault(tree, [])

    def _want(self, place: str, flags: int) -> None:
        directory, name = os.path.split(place)
        self._wanted.setdefault(directory, []).append(Wanted(name, flags))


def _state(directory: str) -> State | None:
    """None if it is not there."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return State(status.st_dev, status.st_ino, status.st_ctime_ns)


def _differ(one: bytes, other: bytes) -> bool:
    """Whether two handles are known to be of two files."""
    return bool(one and other) and one != other


def _merged(one: int, other: int) -> int:
    """Both; WRITE_ONLY stays only where each that is there has it."""
    if not one or not other:
        return one | other
    return (one | other) & ~NAME_WRITE_ONLY | (one & other & NAME_WRITE_ONLY)


def _spelled_out(text: str) -> Iterator[str]:
    for one in expand_braces(text):
        if one.startswith("~"):
            for home in ("/root", *globbing.glob("/home/*"), *home_directories()):
                yield home + one[1:]
        elif not one.startswith("/proc/"):
            yield one


def _places(text: str) -> list[str]:
    """Globs in known directories; those over trees (`**`) would take too long to look for."""
    places = []
    for one in _spelled_out(text):
        directory, name = os.path.split(one)
        if "**" in one:
            continue
        found = globbing.glob(directory) if globbing.has_magic(directory) else [directory]
        places += [f"{each}/{name}" for each in found]
    return places


def _trees(text: str) -> list[str]:
    """Directories of which a rule names all that is below (`/srv/keys/**`)."""
    below = [one.removesuffix("/**") for one in _spelled_out(text) if one.endswith("/**")]
    return [tree for glob in below if "**" not in glob for tree in globbing.glob(glob)]


def _files_below(tree: str) -> list[str]:
    """At most 1024 files below a directory, in at most 1024 directories."""
    found: list[str] = []
    for count, (directory, _, names) in enumerate(os.walk(tree)):
        found += [f"{directory}/{name}" for name in names]
        if count >= _TREE_MAX or len(found) >= _TREE_MAX:
            break
    return found[:_TREE_MAX]


def _programs(rule: Rule) -> list[str]:
    """Paths at which the executables that a rule names may be."""
    positive, _ = split_negated(rule.match.exe or ())
    found = []
    for text in positive:
        for one in expand_braces(text):
            directory, name = os.path.split(one)
            if globbing.has_magic(name):
                continue
            if directory == "**":
                found += [f"{place}/{name}" for place in _PROGRAM_PLACES]
            elif not globbing.has_magic(directory) and not one.startswith("~"):
                found.append(one)
    return found
