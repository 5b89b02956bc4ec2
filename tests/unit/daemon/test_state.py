"""What an engine hands on is there whole, or not at all."""

import errno
import os
import resource
from pathlib import Path

import pytest

from agentd.daemon.state import State
from agentd.errors import AgentdError


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert State(path).read() == {}
    state = State(path)
    state.save({"sessions": [1]})
    state.save({"sessions": [1, 2]})
    assert State(path).read() == {"sessions": [1, 2]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    State(path).save({"sessions": [1]})
    before = path.stat().st_ino
    state = State(path)
    state.save(state.read())
    assert path.stat().st_ino == before


def test_a_full_disk_leaves_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = State(path)
    state.save({"sessions": [1]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            state.save({"sessions": ["x" * 1000]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert State(path).read() == {"sessions": [1]}
    state.save({"sessions": [2]})
    assert State(path).read() == {"sessions": [2]}


@pytest.mark.parametrize("damage", [b"", b'{"sessions": [1', b"\0" * 40])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(damage)
    with pytest.raises(AgentdError, match=r"state\.json: .*agentd unload.*delete the file"):
        State(path).read()
