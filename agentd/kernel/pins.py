"""What outlives the daemon: maps and links pinned in a bpf file system.

    /sys/fs/bpf/agentd[-0123abcd]/maps/NAME     every map
                                  links/NAME    the attachment of program NAME

A link that is pinned in the place of another one takes over from it: the new program runs before
the old one is gone, so that no denial is ever missing.
"""

import ctypes
import os
import zlib
from pathlib import Path
from typing import Final

from agentd import paths
from agentd.errors import AgentdError
from agentd.kernel import host
from agentd.kernel.libbpf import Map, get_pinned, pin

_MOUNT_POINT: Final = Path("/sys/fs/bpf")
_PREFIX: Final = "agentd"
_NEW: Final = "_new"  # bpffs takes no name with a dot


class Pins:
    """The directory of one daemon, named after its runtime directory."""

    def __init__(self, runtime_dir: Path) -> None:
        name = _PREFIX
        if runtime_dir != paths.RUNTIME_DIR:
            name += f"-{zlib.crc32(os.fsencode(runtime_dir)):08x}"
        self.directory = _MOUNT_POINT / name
        self._maps = self.directory / "maps"
        self._links = self.directory / "links"

    @staticmethod
    def any() -> bool:
        """Whether some daemon has left something."""
        return bool(list(_MOUNT_POINT.glob(f"{_PREFIX}*")))

    def exist(self) -> bool:
        """Whether this daemon has left something."""
        return self._maps.is_dir() and any(self._maps.iterdir())

    def make(self) -> None:
        """Mounts the file system if need be, and makes the directories. Raises AgentdError."""
        if str(_MOUNT_POINT) not in host.mounts().get("bpf", ()):
            _mount_bpf()
        for directory in (self.directory, self._maps, self._links):
            directory.mkdir(mode=0o700, exist_ok=True)

    def open_maps(self) -> dict[str, Map]:
        """The maps that were left."""
        found = {}
        for path in sorted(self._maps.iterdir()) if self._maps.is_dir() else ():
            if path.name.endswith(_NEW):  # of a daemon that was killed in between
                path.unlink()
                continue
            fd = get_pinned(str(path))
            fields = _fdinfo(fd)
            sizes = (fields["key_size"], fields["value_size"], fields["max_entries"])
            found[path.name] = Map(path.name, fd, *map(int, sizes))
        return found

    def keep_map(self, bpf_map: Map) -> None:
        """Pins a map, in the place of one of the same name.

        Not the constants of a program (".rodata"), which live as long as the program does.
        """
        if "." in bpf_map.name:
            return
        self._keep(self._maps / bpf_map.name, bpf_map.fd)

    def keep_link(self, name: str, fd: int) -> None:
        """Pins an attachment, and ends the one that was pinned there before."""
        self._keep(self._links / name, fd)

    def drop_link(self, name: str) -> None:
        """Ends a pinned attachment, once no process has it open."""
        (self._links / name).unlink(missing_ok=True)

    def retain_links(self, names: set[str]) -> None:
        """Ends every pinned attachment of another name: of programs that are no more."""
        for path in self._links.iterdir():
            if path.name not in names:
                path.unlink()

    def attached(self) -> list[int]:
        """Ids of the programs whose attachments are pinned (proc_pid_fdinfo(5))."""
        found = []
        for path in self._links.iterdir() if self._links.is_dir() else ():
            fd = get_pinned(str(path))
            try:
                found.append(int(_fdinfo(fd)["prog_id"]))
            finally:
                os.close(fd)
        return found

    def remove(self) -> bool:
        """Ends and frees everything; False if there was nothing.

        The kernel takes the programs off one by one after that, about 0.15 s each.
        """
        if not self.directory.is_dir():
            return False
        for directory in (self._links, self._maps):
            for path in directory.iterdir() if directory.is_dir() else ():
                path.unlink()
            if directory.is_dir():
                directory.rmdir()
        self.directory.rmdir()
        return True

    @staticmethod
    def _keep(path: Path, fd: int) -> None:
        fresh = path.with_name(path.name + _NEW)
        fresh.unlink(missing_ok=True)
        pin(fd, str(fresh))
        fresh.rename(path)


def _fdinfo(fd: int) -> dict[str, str]:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _mount_bpf() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(_MOUNT_POINT), b"bpf", 0, b"mode=0700"):
        raise AgentdError(
            f"{_MOUNT_POINT}: no bpf file system: {os.strerror(ctypes.get_errno())};"
            f" mount -t bpf bpf {_MOUNT_POINT}"
        )
