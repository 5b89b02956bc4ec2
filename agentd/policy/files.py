"""Rule files on disk: which there are, and whether they have changed."""

from collections.abc import Iterable
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int, int], ...]


def rule_files(path: Path) -> list[Path]:
    """All `*.yaml` and `*.yml` of a directory in the order of their names; or the one file.

    A directory that cannot be listed stands for itself: whoever reads it is told why not.
    """
    if not path.is_dir():
        return [path] if path.exists() else []
    try:
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".")
        )
    except OSError:
        return [path]


def fingerprint(directories: Iterable[Path]) -> Fingerprint:
    """Changes when a file is added, removed, replaced or edited, or a directory comes or goes.

    Of files: name, inode, size, mtime (ns).
    """
    found = []
    for directory in directories:
        found.append((str(directory), int(directory.exists()), 0, 0))
        for file in rule_files(directory):
            try:
                status = file.stat()
            except OSError:
                found.append((str(file), 0, 0, 0))
            else:
                found.append((str(file), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
