"""The kernel's own numbers of a file: what `stat` shows differs on btrfs and overlayfs."""

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Inode(NamedTuple):
    """`i_ino` and `i_sb->s_dev` (major << 20 | minor, MKDEV of linux/kdev_t.h)."""

    ino: int
    dev: int


class InodeReader:
    """Looks files up; what it knows of mounts is from when it was made."""

    def __init__(self) -> None:
        self._devices: dict[int, int] = {}
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            mount, _, device = line.split(b" ", 3)[:3]
            major, minor = device.split(b":")
            self._devices[int(mount)] = int(major) << 20 | int(minor)

    def read(self, path: str | bytes | Path, *, follow: bool = True) -> Inode | None:
        """The regular file that `path` is now; None if it is not there, or something else.

        From /proc/self/fdinfo (proc_pid_fdinfo(5)): `mnt_id`, and `ino` since Linux 5.14.
        """
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        return self._read(path, flags, stat.S_IFREG)

    def read_directory(self, path: str) -> Inode | None:
        """The same for a directory."""
        return self._read(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY, stat.S_IFDIR)

    def _read(self, path: str | bytes | Path, flags: int, kind: int) -> Inode | None:
        try:
            fd = os.open(path, flags)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(fd)
            if stat.S_IFMT(status.st_mode) != kind:
                return None
            fields = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
                if ":\t" in line
            )
        except OSError:
            return None
        finally:
            os.close(fd)
        stat_device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        device = self._devices.get(int(fields.get("mnt_id", -1)), stat_device)
        return Inode(int(fields.get("ino", status.st_ino)), device)
