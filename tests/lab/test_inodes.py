"""The number of an inode is not the file: it comes again, and on overlayfs two may have the same.

A file that only has the number of one that rules or agentd itself protect is nobody's business;
one that was known by another name is, wherever it was seen before.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentd.kernel.inodes import InodeReader
from tests.host.support.control import Message
from tests.host.support.daemon import workload
from tests.host.support.puppet import Puppet
from tests.lab.sessions import EVENT_S, SessionDaemon, outcome
from tests.lab.support.disk import mounted_ext4

pytestmark = pytest.mark.lab(kernels=["6.1", "7.2"])
_AHEAD = 3000


class _Daemon(SessionDaemon):
    """Reads rules from a directory on the disk, too, which so becomes one of its own."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--rules", str(self.directory.parent / "disk" / "rules")]


def _rule(rule_id: str, on: str, action: str, **match: object) -> Message:
    return {"id": rule_id, "on": on, "match": match, "action": action}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that gives the number of a deleted file to the next one."""
    with mounted_ext4(tmp_path_factory.mktemp("inodes")) as disk:
        yield disk


def _documents(disk: Path) -> dict[str, Message]:
    rules = [
        _rule("no-read", "file.open", "deny", path=[f"{disk.parent}/vault/*", f"{disk}/closed"]),
        _rule("told", "file.open", "audit", path=f"{disk}/told"),
        _rule("no-run", "process.exec", "deny", exe=f"{disk}/told"),
    ]
    return {"w.yaml": workload("w"), "r.yaml": {"rules": rules}}


@pytest.fixture(scope="module")
def daemon(disk: Path) -> Iterator[SessionDaemon]:
    (disk.parent / "vault").mkdir()
    (disk / "rules").mkdir()
    # An overlay counts its directories, what lies below counts all that is made there.
    for count in range(_AHEAD):
        (disk.parent / f"ahead-{count}").touch()
    with _Daemon(disk.parent / "daemon", _documents(disk)) as running:
        yield running


@pytest.fixture(scope="module")
def observing(disk: Path) -> Iterator[SessionDaemon]:
    settings = {"tier": "observe"}
    with SessionDaemon(disk.parent / "other", _documents(disk), settings=settings) as running:
        yield running


def test_a_directory_with_the_number_of_one_of_its_files(
    daemon: SessionDaemon, tmp_path: Path
) -> None:
    """The root here is an overlay of two file systems: its directories have numbers of its own."""
    reader = InodeReader()
    ends = ("", "-wal", "-shm")
    found = [reader.read(daemon.journal.with_name(daemon.journal.name + end)) for end in ends]
    numbers = {inode.ino for inode in found if inode is not None}
    place = tmp_path / "place"
    place.mkdir()
    while place.stat().st_ino not in numbers and place.stat().st_ino < max(numbers):
        place.rmdir()
        place.mkdir()
    inode = reader.read_directory(str(place))
    assert inode is not None
    assert (inode.ino, inode.dev) in {(each.ino, each.dev) for each in found if each is not None}
    lines = daemon.session("w", f"try touch {place}/new")
    assert outcome(lines, "touch") == "ok"


def test_a_new_directory_with_the_number_of_one_of_its_own(
    daemon: SessionDaemon, disk: Path
) -> None:
    gone, new = disk / "rules", disk / "new"
    assert outcome(daemon.session("w", f"try touch {gone}/x"), "touch") == "no"
    number = gone.stat().st_ino
    gone.rmdir()
    new.mkdir()
    assert new.stat().st_ino == number
    assert outcome(daemon.session("w", f"try touch {new}/x"), "touch") == "ok"


@pytest.mark.parametrize("tier", ["daemon", "observing"])
def test_a_new_file_with_the_number_of_a_denied_one(
    request: pytest.FixtureRequest, disk: Path, tier: str
) -> None:
    daemon: SessionDaemon = request.getfixturevalue(tier)
    gone, new = disk / "closed", disk / f"open-{tier}"
    gone.write_text("closed")
    assert outcome(daemon.session("w", f"try cat {gone}"), "cat") == "no"
    number = gone.stat().st_ino
    gone.unlink()
    new.write_text("open")
    assert new.stat().st_ino == number
    assert outcome(daemon.session("w", f"try cat {new}"), "cat") == "ok"


def test_a_new_file_with_the_number_of_one_that_was_gone_when_it_was_told(
    daemon: SessionDaemon, disk: Path
) -> None:
    gone, new = disk / "told", disk / "program"
    engine = psutil.Process(daemon.request("ping")["pid"])
    with Puppet(daemon.run("w", Puppet.ARGV)) as puppet:
        puppet.act("import os, subprocess")
        engine.suspend()
        try:
            made = puppet.act(
                f"import os\nf = os.open({str(gone)!r}, os.O_CREAT | os.O_WRONLY)\n"
                f"result = os.fstat(f).st_ino\nos.close(f)\nos.unlink({str(gone)!r})"
            )
        finally:
            engine.resume()
        assert made.error == 0
        daemon.wait_for(lambda event: _names(event, gone), EVENT_S, "the record of the open")
        new.write_bytes(Path("/bin/true").resolve().read_bytes())
        new.chmod(0o755)
        assert new.stat().st_ino == made.result
        ran = puppet.act(f"import subprocess\nresult = subprocess.run([{str(new)!r}]).returncode")
    assert (ran.error, ran.result) == (0, 0)


def test_a_denied_file_under_a_name_at_which_it_was_open_before(daemon: SessionDaemon) -> None:
    base = daemon.directory.parent
    free, closed = base / "free", base / "vault" / "file"
    free.write_text("it")
    assert outcome(daemon.session("w", f"try cat {free}"), "cat") == "ok"
    free.rename(closed)
    lines = daemon.session("w", f"try cat {closed}\ntry mv {closed} {free}\ntry cat {free}")
    assert lines == [f"no cat {closed}", f"ok mv {closed} {free}", f"no cat {free}"]


def _names(event: Message, path: Path) -> bool:
    return bool(event["class"] == "file.open" and event["file"]["path"] == str(path))
