"""What the publisher remembers between runs: how far the journal has reached the stream.

The publisher writes the file (its own user, its own directory), the engine reads it to know which
rows may be trimmed without loss. Both treat it as data that the other side of a privilege boundary
could have written.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

FILE = "state.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Progress:
    """All rows of journal `journal` up to `floor` (events.id) are in the stream, acked.

    They lie at or below `stream_seq` of the stream `stream` that was made at `created` (the
    server's RFC 3339 text); what this host stored above it has yet to be looked up.
    """

    journal: str = ""
    floor: int = 0
    stream: str = ""
    created: str = ""
    stream_seq: int = 0

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Parse; anything but a well-formed state is the empty state."""
        try:
            found = orjson.loads(data)
            return cls(
                journal=str(found["journal"]),
                floor=max(0, int(found["floor"])),
                stream=str(found["stream"]),
                created=str(found["created"]),
                stream_seq=max(0, int(found["stream_seq"])),
            )
        except (ValueError, KeyError, TypeError):
            return cls()


class StateDir:
    """The state directory, held open so that it needs no path after privileges are gone."""

    def __init__(self, path: Path) -> None:
        """Open the directory; raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags)

    def load(self) -> Progress:
        """The saved state, the empty one if there is none."""
        return _read(FILE, self._fd)

    def save(self, progress: Progress) -> None:
        """Replace the state atomically and durably; raises OSError."""
        new = FILE + ".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(new, flags, 0o644, dir_fd=self._fd)
        try:
            os.write(fd, orjson.dumps(asdict(progress)))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, FILE, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)


def sent_floor(directory: Path, journal: str) -> int:
    """The highest events.id of that journal which is known to be in the stream, else 0."""
    progress = _read(str(directory / FILE), None)
    return progress.floor if progress.journal == journal else 0


def _read(name: str, dir_fd: int | None) -> Progress:
    # The directory belongs to another user: follow no link, wait for no FIFO.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError:
        return Progress()
    try:
        return Progress.of(os.read(fd, _MAX_BYTES))
    except OSError:
        return Progress()
    finally:
        os.close(fd)
