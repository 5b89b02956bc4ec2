"""Rule files on disk: which there are, and whether they have changed."""

from collections.abc import Iterable
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int, int], ...]


def rule_files(path: Path) -> list[Path]:
    """All `*.yaml` and `*.yml` of a directory in the order of their names; or the one file."""
    if path.is_file():
        return [path]
    try:
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".")
        )
    except OSError:
        return []


def fingerprint(directories: Iterable[Path]) -> Fingerprint:
    """Changes when a file is added, removed, replaced or edited: name, inode, size, mtime (ns)."""
    found = []
    for directory in directories:
        for file in rule_files(directory):
            try:
                status = file.stat()
            except OSError:
                found.append((str(file), 0, 0, 0))
            else:
                found.append((str(file), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
