"""A file system of the kind that hosts have: the machines of the lab have none of their own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIZE = 64 << 20


@contextmanager
def mounted_ext4(directory: Path) -> Iterator[Path]:
    """An empty ext4 file system at `disk` below a directory, from an image beside it."""
    disk, image = directory / "disk", directory / "image"
    image.touch()
    os.truncate(image, _SIZE)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    disk.mkdir()
    subprocess.run(["modprobe", "-a", "loop", "ext4"], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
