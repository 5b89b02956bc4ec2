"""Where agentd keeps what it depends on: the files that no labelled task may change."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import agentd
from agentd import paths
from agentd.kernel.inodes import Inode, InodeReader
from agentd.kernel.pins import Pins

_OPTION: Final = "--config="


def own_places(
    config: dict[str, Any], directories: Iterable[Path], arguments: Iterable[str]
) -> list[Path]:
    """Resolved paths; some may not exist.

    `directories` are those that rules are read from, `arguments` those of `preload`.

    A virtual environment belongs to it as a whole; of a system's interpreter only agentd itself
    does: package managers must be able to change the rest.
    """
    journal = Path(config["journal"]["path"])
    found = [
        Path(config["runtime_dir"]),
        Path(config["state_dir"]),
        journal,
        *(journal.with_name(journal.name + end) for end in ("-wal", "-shm")),
        *(Path(each) for each in config["rules"]),
        *directories,
        paths.CONFIG_FILE.parent,
        Path(agentd.__file__).parent,
        Pins(Path(config["runtime_dir"])).directory,
    ]
    given = [text.removeprefix(_OPTION) for text in arguments if text.startswith(_OPTION)]
    given.append(os.environ.get("AGENTD_CONFIG", ""))
    found += [Path(name) for name in given if name]
    if sys.prefix != sys.base_prefix:
        found.append(Path(sys.prefix))
    return sorted({place.resolve() for place in found})


def own_inodes(places: Iterable[Path]) -> list[Inode]:
    """The inodes of those that exist: bind mounts do not hide them."""
    reader = InodeReader()
    found = (reader.read_directory(str(place)) or reader.read(place) for place in places)
    return [inode for inode in found if inode is not None]
