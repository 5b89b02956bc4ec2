"""The kernel's own numbers of a file: what `stat` shows differs on btrfs and overlayfs."""

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

_LIBC: Final = ctypes.CDLL(None)
_AT_EMPTY_PATH: Final = 0x1000
_MAX_HANDLE: Final = 128


class _Handle(ctypes.Structure):
    """`struct file_handle` of name_to_handle_at(2)."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    )


class Inode(NamedTuple):
    """`i_ino`, `i_sb->s_dev` (major << 20 | minor, MKDEV of linux/kdev_t.h), S_IFMT of `i_mode`."""

    ino: int
    dev: int
    kind: int = stat.S_IFREG


class Found(NamedTuple):
    """An inode, and what tells it from a later one that has its number (b"": nothing does)."""

    inode: Inode
    handle: bytes


def _handle(fd: int) -> bytes:
    handle = _Handle(handle_bytes=_MAX_HANDLE)
    mount = ctypes.byref(ctypes.c_int())
    if _LIBC.name_to_handle_at(fd, b"", ctypes.byref(handle), mount, _AT_EMPTY_PATH):
        return b""
    return bytes(handle.f_handle[: handle.handle_bytes])


class InodeReader:
    """Looks files up; what it knows of mounts is from when it was made."""

    def __init__(self) -> None:
        self._devices: dict[int, int] = {}
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            mount, _, device = line.split(b" ", 3)[:3]
            major, minor = device.split(b":")
            self._devices[int(mount)] = int(major) << 20 | int(minor)

    def find(self, path: str | bytes | Path, *, follow: bool = True) -> Found | None:
        """The regular file that `path` is now; None if it is not there, or something else."""
        with self.held(path, follow=follow) as found:
            return found

    @contextmanager
    def held(self, path: str | bytes | Path, *, follow: bool = True) -> Iterator[Found | None]:
        """What `find` finds. While the block runs the file is not gone, even if it is deleted."""
        with self._held(path, 0 if follow else os.O_NOFOLLOW, stat.S_IFREG) as found:
            yield found

    def identify(self, inode: Inode, link: str) -> Found:
        """A file in use that the kernel has told of; `link` below /proc should lead to it.

        Its handle is unknown where the process has put something else there meanwhile.
        """
        found = self.find(link)
        return found if found and found.inode == inode else Found(inode, b"")

    def read(self, path: str | bytes | Path, *, follow: bool = True) -> Inode | None:
        """The inode that `find` finds."""
        found = self.find(path, follow=follow)
        return found and found.inode

    def read_directory(self, path: str) -> Inode | None:
        """The same for a directory."""
        with self._held(path, os.O_DIRECTORY, stat.S_IFDIR) as found:
            return found and found.inode

    @contextmanager
    def _held(self, path: str | bytes | Path, flags: int, kind: int) -> Iterator[Found | None]:
        try:
            fd = os.open(path, flags | os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError):
            yield None
            return
        try:
            yield self._look(fd, kind)
        finally:
            os.close(fd)

    def _look(self, fd: int, kind: int) -> Found | None:
        """From /proc/self/fdinfo (proc_pid_fdinfo(5)): `mnt_id`, and `ino` since Linux 5.14."""
        try:
            status = os.fstat(fd)
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
        except OSError:
            return None
        if stat.S_IFMT(status.st_mode) != kind:
            return None
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        stat_device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        device = self._devices.get(int(fields.get("mnt_id", -1)), stat_device)
        return Found(Inode(int(fields.get("ino", status.st_ino)), device, kind), _handle(fd))
