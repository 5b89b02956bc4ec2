"""Opens of secret files in `enforce`: the reader dies and the bytes are never read."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import Labelled, python, shell

SECRET = b"the-secret-bytes"
SETTLED_S, RESCAN_S = 1.2, 1.0
READ = """
import os, sys
fd = os.open(sys.argv[1], int(sys.argv[2]))
os.write(1, b"read:" + os.read(fd, 100))
"""
OPENAT2 = """
import ctypes, os, struct, sys
how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_RDONLY, 0, 0))
fd = ctypes.CDLL(None).syscall(437, -100, sys.argv[1].encode(), how, 24)
os.write(1, b"read:" + os.read(fd, 100))
"""


@dataclass
class Place:
    daemon: Daemon
    base: Path
    secret: Path
    other_name: Path
    """A hard link that was made before the daemon started."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("open")
    secret = base / "vault" / "key.secret"
    secret.parent.mkdir()
    secret.write_bytes(SECRET)
    other_name = base / "innocent"
    os.link(secret, other_name)
    (base / "elsewhere").mkdir()
    (base / "link").symlink_to(base / "elsewhere" / "target")  # where the link is nothing changes
    rules = [
        {
            "id": "no-secret",
            "on": "file.open",
            "match": {"path": [f"{base}/vault/**"], "access": ["read"]},
            "action": "deny",
            "mark": ["read:secret"],
        },
        {
            "id": "whole-session",
            "on": "file.open",
            "match": {"path": f"{base}/trap/bait"},
            "action": "kill",
            "kill": "session",
        },
        {
            "id": "only-cat",
            "on": "file.open",
            "match": {"path": f"{base}/only/cat"},
            "when": "!event.process.exe.endsWith('/cat')",
            "action": "kill",
        },
        {
            "id": "later",
            "on": "file.open",
            "match": {"path": [f"{base}/absent/deep/key", f"{base}/link/key"]},
            "action": "deny",
        },
    ]
    daemon = Daemon(
        base / "agentd",
        {
            "workloads.yaml": workload("tested"),
            "observed.yaml": workload("observed", posture="observe"),
            "rules.yaml": {"rules": rules},
        },
    )
    with daemon:
        yield Place(daemon, base, secret, other_name)


def assert_killed(labelled: Labelled, rule: str = "no-secret") -> None:
    """Nothing of the secret arrived anywhere, and the event says what was done."""
    labelled.finish()
    assert SECRET not in labelled.output
    assert b"read:" not in labelled.output
    decided = labelled.decisions("file.open")
    assert decided, labelled.events()
    decision = decided[-1]["decision"]
    assert rule in decision["rules"]
    assert decision["outcome"] == "killed"
    assert decision["before_effect"] is True
    assert decision["tier"] == "observe"
    signals = [event["exit"].get("signal") for event in labelled.events("process.exit")]
    assert 9 in signals


def test_plain_read(place: Place) -> None:
    assert_killed(python(place.daemon, READ, place.secret, os.O_RDONLY))


def test_program_that_writes_what_it_read_to_a_file(place: Place) -> None:
    copy = place.base / "stolen"
    assert_killed(shell(place.daemon, f"cat {place.secret} > {copy}"))
    assert copy.read_bytes() == b""


def test_read_and_write(place: Place) -> None:
    assert_killed(python(place.daemon, READ, place.secret, os.O_RDWR))


def test_openat2(place: Place) -> None:
    assert_killed(python(place.daemon, OPENAT2, place.secret))


@pytest.mark.parametrize(
    "form",
    [
        "{base}/vault/../vault/./key.secret",
        "/proc/self/root{base}/vault/key.secret",
        "//{base}//vault/key.secret",
    ],
)
def test_other_spellings(place: Place, form: str) -> None:
    assert_killed(python(place.daemon, READ, form.format(base=place.base), os.O_RDONLY))


def test_symbolic_link(place: Place) -> None:
    link = place.base / "symlink"
    link.symlink_to(place.secret)
    assert_killed(python(place.daemon, READ, link, os.O_RDONLY))


def test_linked_directory(place: Place) -> None:
    link = place.base / "linked-directory"
    link.symlink_to(place.secret.parent)
    assert_killed(python(place.daemon, READ, link / place.secret.name, os.O_RDONLY))


def test_hard_link_from_before_the_daemon(place: Place) -> None:
    labelled = python(place.daemon, READ, place.other_name, os.O_RDONLY)
    assert_killed(labelled)
    file = labelled.decisions("file.open")[-1]["file"]
    assert file["path"] == str(place.other_name)
    assert file["also"] == str(place.secret)


def test_hard_link_made_by_the_agent_at_once(place: Place) -> None:
    code = "import os, sys\nos.link(sys.argv[1], sys.argv[3])\nsys.argv[1] = sys.argv[3]\n" + READ
    link = place.base / "fresh-link"
    assert_killed(python(place.daemon, code, place.secret, os.O_RDONLY, link))


def test_hard_link_to_a_file_that_is_newer_than_the_policy(place: Place) -> None:
    fresh = place.base / "vault" / "later"
    fresh.write_bytes(SECRET)
    code = "import os, sys\nos.link(sys.argv[1], sys.argv[3])\nsys.argv[1] = sys.argv[3]\n" + READ
    assert_killed(python(place.daemon, code, fresh, os.O_RDONLY, place.base / "later-link"))


@pytest.mark.parametrize("directory", ["absent/deep", "elsewhere/target"])
def test_file_in_a_directory_that_came_later(place: Place, directory: str) -> None:
    """It came without an event, and so did its file; the latter is known under any name then."""
    witness = shell(place.daemon, "read line")  # without a session nobody looks
    time.sleep(SETTLED_S + RESCAN_S)
    secret = place.base / directory / "key"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(SECRET)
    time.sleep(RESCAN_S)
    moved = secret.rename(place.base / "moved-key")
    assert_killed(python(place.daemon, READ, moved, os.O_RDONLY), "later")
    witness.finish(b"\n")


def test_renamed_file(place: Place) -> None:
    victim = place.base / "vault" / "renamed"
    victim.write_bytes(SECRET)
    place.daemon.request("reload")
    moved = place.base / "harmless-name"
    code = "import os, sys\nos.rename(sys.argv[1], sys.argv[3])\nsys.argv[1] = sys.argv[3]\n" + READ
    assert_killed(python(place.daemon, code, victim, os.O_RDONLY, moved))


def test_renamed_directory(place: Place) -> None:
    directory = place.base / "vault" / "sub"
    directory.mkdir()
    (directory / "key").write_bytes(SECRET)
    place.daemon.request("reload")
    code = "import os, sys\nos.rename(sys.argv[3], sys.argv[4])\n" + READ
    assert_killed(
        python(place.daemon, code, place.base / "plain" / "key", os.O_RDONLY, directory,
               place.base / "plain")
    )  # fmt: skip


def test_copy_of_cat(place: Place) -> None:
    program = place.base / "dog"
    subprocess.run(["cp", "/bin/cat", program], check=True)
    assert_killed(Labelled(place.daemon, [program, place.secret]))


def test_bind_mount(place: Place) -> None:
    script = f"""
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
os.mkdir("{place.base}/mounted")
assert libc.mount(b"{place.secret.parent}", b"{place.base}/mounted", None, 4096, None) == 0
sys.argv[1] = "{place.base}/mounted/key.secret"
"""
    assert_killed(python(place.daemon, script + READ, "", os.O_RDONLY))


def test_chroot(place: Place) -> None:
    code = "import os, sys\nos.chroot(sys.argv[3])\n" + READ
    root = place.secret.parent
    assert_killed(python(place.daemon, code, "/key.secret", os.O_RDONLY, root))


def test_descriptor_from_another_process(place: Place) -> None:
    """pidfd_getfd takes a descriptor that somebody else has opened."""
    with place.secret.open("rb") as file:
        code = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
pidfd = os.pidfd_open(int(sys.argv[1]))
fd = libc.syscall(438, pidfd, int(sys.argv[2]), 0)
os.write(1, b"read:" + os.pread(fd, 100, 0))
"""
        assert_killed(python(place.daemon, code, os.getpid(), file.fileno()))


def test_session_dies_as_a_whole(place: Place) -> None:
    bait = place.base / "trap" / "bait"
    bait.parent.mkdir()
    bait.write_bytes(SECRET)
    child = place.base / "child-went-on"
    labelled = shell(
        place.daemon,
        f"(sleep 30; touch {child}) & setsid sleep 30 & sleep 0.2; cat {bait}; touch {child}",
    )
    assert_killed(labelled, "whole-session")
    assert labelled.process.returncode == -9
    assert not child.exists()


def test_condition_on_the_program(place: Place) -> None:
    file = place.base / "only" / "cat"
    file.parent.mkdir()
    file.write_bytes(b"for-cat")
    allowed = shell(place.daemon, f"exec cat {file}")
    assert allowed.finish() == 0
    assert allowed.output == b"for-cat"
    assert_killed(shell(place.daemon, f"exec head -c 100 {file}"), "only-cat")


def test_observed_workload_is_told_but_not_stopped(place: Place) -> None:
    labelled = python(place.daemon, READ, place.secret, os.O_RDONLY, workload="observed")
    assert labelled.finish() == 0
    assert labelled.output == b"read:" + SECRET
    decision = labelled.decisions("file.open")[0]["decision"]
    assert decision["verdict"] == "deny"
    assert decision["would"] is True
    assert decision["outcome"] == "allowed"


def test_unlabelled_process_reads_on(place: Place) -> None:
    assert place.secret.read_bytes() == SECRET


def test_mark_is_set_on_the_session(place: Place) -> None:
    labelled = shell(place.daemon, f"cat {place.secret}; read line")
    labelled.wait_for(lambda event: "decision" in event)
    shown = place.daemon.request("ps")["workloads"]
    sessions = [
        s
        for w in shown
        for s in w["sessions"]
        if (s["task"] or {}).get("objective") == labelled.task
    ]
    assert sessions[0]["labels"] == ["read:secret"]
    labelled.finish(b"\n")


def test_aws_credentials_as_shipped(start_daemon: object) -> None:
    """The rule as it is shipped, on a real home; only where there is no such file."""
    target = Path("/root/.aws/credentials")
    if target.exists():
        pytest.skip(f"{target} exists on this machine")
    assert callable(start_daemon)
    made = not target.parent.exists()
    target.parent.mkdir(exist_ok=True)
    try:
        target.write_bytes(SECRET)
        daemon = start_daemon(rules={"workloads.yaml": workload("tested")}, shipped=True)
        assert_killed(shell(daemon, "cat ~/.aws/credentials"), "secret-cloud")
    finally:
        target.unlink()
        if made:
            target.parent.rmdir()


def test_a_number_that_is_used_again(place: Place) -> None:
    """A new file is not a secret because a secret that is gone had its inode's number."""
    gone, heir = place.base / "vault" / "gone.secret", place.base / "heir"
    (place.base / "made-here").write_bytes(SECRET)
    (place.base / "made-here").rename(gone)
    assert_killed(python(place.daemon, READ, gone, os.O_RDONLY))
    number = gone.stat().st_ino
    gone.unlink()
    for count in range(20_000):  # the first free number is the next one
        new = place.base / f"new-{count}"
        new.write_bytes(b"harmless")
        if new.stat().st_ino == number:
            break
    new.rename(heir)
    assert heir.stat().st_ino == number, "somebody else's file has it, or none gets it again"
    labelled = python(place.daemon, READ, heir, os.O_RDONLY)
    assert labelled.finish() == 0
    assert labelled.output == b"read:harmless"
    assert not labelled.decisions("file.open")
    os.link(place.secret, place.base / "yet-another-name")
    assert_killed(python(place.daemon, READ, place.base / "yet-another-name", os.O_RDONLY))
