"""Paths as the kernel's records carry them -> the path that is meant, as text."""

import os
from typing import Final

from agentd.workloads.identity import readable

_CUT: Final = b"..."
_LOOK: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def raw_path(components: bytes) -> bytes:
    """A path from its names, leaf first, each ended by NUL; `/...` begins one that was cut."""
    names = components.split(b"\0")
    names.pop()
    names.reverse()
    return b"/" + b"/".join(names)


def path_of(components: bytes) -> str:
    """`raw_path` as text."""
    return readable(raw_path(components))


def given_path(base: bytes, given: bytes) -> bytes:
    """The path that a system call was given, made absolute; still with its symbolic links.

    `base` are the components of the directory that it starts from, for an absolute path those of
    the root directory of the process.
    """
    start = raw_path(base) if base else b"/"
    return os.path.join(start, given.rstrip(b"\0").lstrip(b"/")) if given else start


def true_path(path: bytes) -> bytes:
    """The same path with the links among its directories resolved, where those still exist.

    The last component stays as it is: it may be gone, or be a link itself. What is resolved is
    what is there now, which another process may have changed since the call. About 8 us.
    """
    trimmed = path.rstrip(b"/") or b"/"
    directory, name = os.path.split(trimmed)
    if name in {b".", b"..", b""}:
        directory, name = trimmed, b""
    try:
        fd = os.open(directory, _LOOK)
    except OSError:
        return os.path.normpath(path)
    try:
        found = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:
        return os.path.normpath(path)
    finally:
        os.close(fd)
    return os.path.join(found, name) if name else found


def unix_path(raw: bytes) -> str:
    """A Unix socket's address; an abstract one starts with `@`."""
    if raw[:1] == b"\0":
        return "@" + readable(raw[1:].rstrip(b"\0"))
    return readable(raw.split(b"\0", 1)[0])
