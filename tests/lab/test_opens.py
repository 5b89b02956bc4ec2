"""Where a hook decides on opens it also tells of them, and no call that opens is hooked.

A rule for which the kernel side has no room still has them looked at when they return.
"""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.host.support.daemon import workload
from tests.host.support.processes import wait_until
from tests.lab.sessions import EVENT_S, SessionDaemon
from tests.lab.support.hooks import hooked_functions
from tests.lab.support.slow_daemon import PATIENCE_S

pytestmark = pytest.mark.lab

_ROOM = 256
_OPENED = "__x64_sys_openat"
_COPIED = "/etc/issue"  # from the layer below, by the first who writes to it
_LOOKED_AT = "__x64_sys_read"


@dataclass
class Place:
    daemon: SessionDaemon
    directories: tuple[Path, Path]
    """On overlayfs, which opens each file twice, and on tmpfs."""

    @property
    def many(self) -> Path:
        return self.directories[0] / "many"

    def opens(self) -> list[tuple[str, str, int]]:
        """Path, access and count of all that was told."""
        return [
            (event["file"]["path"], event["file"]["access"], event.get("count", 1))
            for event in self.daemon.events("file.open")
        ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    overlay = tmp_path_factory.mktemp("opens")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
        directories = (overlay, Path(shm))
        for directory in directories:
            for name in ("told", "plain", "closed"):
                (directory / name).write_text(name)
        rules = [
            {"id": "told", "on": "file.open", "match": {"path": "**/told"}, "action": "audit"},
            {"id": "closed", "on": "file.open", "match": {"path": "**/closed"}, "action": "deny"},
        ]
        files = {"w.yaml": workload("w"), "rules.yaml": {"rules": rules}}
        with SessionDaemon(overlay / "agentd", files) as daemon:
            yield Place(daemon, directories)


def test_each_open_is_told_once(place: Place) -> None:
    check_each_open_is_told_once(place)


@pytest.mark.lab(kernels=["6.12"], append="preempt=full")
def test_each_open_is_told_once_where_the_kernel_is_preempted(place: Place) -> None:
    check_each_open_is_told_once(place)


@pytest.mark.lab(kernels=["6.1"], append="lsm=lockdown,yama")
def test_each_open_is_told_once_where_functions_are_overridden(place: Place) -> None:
    check_each_open_is_told_once(place)


def check_each_open_is_told_once(place: Place) -> None:
    """For writing, or if a rule watches; one that fails is told only where a rule refuses it."""
    lines = place.daemon.session(
        "w",
        f"echo >> {_COPIED}\n"
        + "".join(
            f"echo > {directory}/made; cat {directory}/told {directory}/plain {directory}/closed;"
            f"cat {directory}/missing; echo\n"
            for directory in place.directories
        )
        + "echo done",
    )
    assert lines == ["toldplain", "toldplain", "done"]
    wanted = sorted(
        (f"{directory}/{name}", access, 1)
        for directory in place.directories
        for name, access in (("made", "write"), ("told", "read"), ("closed", "read"))
    )
    wanted += [(_COPIED, "write", 1)]
    wait_until(lambda: len(place.opens()) >= len(wanted), EVENT_S, "all opens are told")
    assert sorted(place.opens()) == sorted(wanted)


def test_a_rule_without_room_has_calls_looked_at_when_they_return(place: Place) -> None:
    """And only while it is in force."""
    place.many.mkdir()
    spare = place.many / "spare"
    spare.write_text("spare")
    read_once = ["/bin/cat", str(spare)]
    with subprocess.Popen(place.daemon.run("w", ["/bin/cat"]), stdin=subprocess.PIPE) as session:
        assert session.stdin is not None
        wait_until(lambda: _LOOKED_AT in hooked_functions(), EVENT_S, "calls are looked at")
        assert _OPENED not in hooked_functions()

        rules = [
            {
                "id": f"deny-{number}",
                "on": "file.open",
                "match": {"path": f"{place.many}/{number or 'spare'}"},
                "action": "deny",
                "severity": "high" if number else "low",
            }
            for number in range(_ROOM)
        ]
        place.daemon.write_rules("many.yaml", {"rules": rules})
        assert place.daemon.request("reload")["problems"] == []
        assert _OPENED in hooked_functions()
        command = place.daemon.run("w", read_once)
        killed = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")
        place.daemon.decided_by("file.open", "deny-0")

        (place.daemon.rules_dir / "many.yaml").unlink()
        assert place.daemon.request("reload")["problems"] == []
        wait_until(lambda: _OPENED not in hooked_functions(), EVENT_S, "opens are let go")
        assert _LOOKED_AT in hooked_functions()
        assert subprocess.check_output(command, timeout=PATIENCE_S) == b"spare"
        session.stdin.close()
