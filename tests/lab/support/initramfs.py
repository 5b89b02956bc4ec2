"""The first root of a lab VM: busybox, the modules that reach the host's root, `init.sh`.

A cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import lzma
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.lab.support.kernels import Kernel

_INIT: Final = Path(__file__).with_name("init.sh")
_BUSYBOX: Final = Path("/usr/bin/busybox")
_MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
_DIRECTORIES: Final = ("bin", "dev", "modules", "proc")
_ALIGNMENT: Final = 4


def build(kernel: Kernel, settings: dict[str, str]) -> bytes:
    """An uncompressed archive for this kernel; `settings` become shell variables of init.sh.

    Raises OSError where busybox or a module is missing, CalledProcessError from modprobe.
    """
    modules = list(_modules(kernel))
    assignments = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in _DIRECTORIES]
    entries += [
        ("bin/busybox", stat.S_IFREG | 0o755, _BUSYBOX.read_bytes()),
        ("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        ("init", stat.S_IFREG | 0o755, _INIT.read_bytes()),
        ("lab.conf", stat.S_IFREG | 0o644, "".join(assignments).encode()),
        ("modules/order", stat.S_IFREG | 0o644, b"".join(f"{m}\n".encode() for m, _ in modules)),
    ]
    entries += [(f"modules/{name}", stat.S_IFREG | 0o644, content) for name, content in modules]
    numbered = enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1)
    return b"".join(_record(number, *entry) for number, entry in numbered)


def _modules(kernel: Kernel) -> Iterator[tuple[str, bytes]]:
    """Name and content of the modules that are not built in, dependencies first."""
    listed = subprocess.run(
        ["modprobe", "-d", kernel.root, "-S", kernel.release, "--show-depends", "-a", *_MODULES],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [Path(line.split()[1]) for line in listed.splitlines() if line.startswith("insmod ")]
    for path in dict.fromkeys(paths):
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        yield path.name.removesuffix(".xz"), content


def _record(number: int, name: str, mode: int, content: bytes) -> bytes:
    """One archive member: a header of 13 hexadecimal fields, the name, the content."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
