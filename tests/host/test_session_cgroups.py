"""Control groups of sessions in the real cgroup2 tree, below a directory of this test's own."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.workloads.cgroups import CgroupError, CgroupTree

SESSION = "s-aaaaaaaa"


@pytest.fixture
def tree() -> Iterator[CgroupTree]:
    """A tree whose mount point is a group of ours, so that no other daemon's groups are seen."""
    whole, explanation = CgroupTree.find()
    assert whole is not None, explanation
    top = whole.mount / f"test-{os.getpid()}"
    top.mkdir()
    yield CgroupTree(top, f"/{top.name}")
    for path, _, _ in os.walk(top, topdown=False):
        Path(path).rmdir()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


def group_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def test_without_a_group_of_its_own(tree: CgroupTree, sleeper: "subprocess.Popen[bytes]") -> None:
    group = tree.create(SESSION, sleeper.pid)
    assert group.directory == tree.mount / "agentd" / SESSION
    assert group.id == group.directory.stat().st_ino
    tree.move(group, sleeper.pid)
    assert group_of(sleeper.pid) == group.name
    assert not tree.remove(group.directory)
    assert tree.reap() == 1
    sleeper.kill()
    sleeper.wait()
    deadline = time.monotonic() + 5
    while tree.reap() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not group.directory.exists()
    tree.close()
    assert not (tree.mount / "agentd").exists()


def test_below_the_group_that_sets_the_limits(
    tree: CgroupTree, sleeper: "subprocess.Popen[bytes]"
) -> None:
    scope = tree.mount / "user.slice" / "session-1.scope"
    scope.mkdir(parents=True)
    (scope / "cgroup.procs").write_text(str(sleeper.pid))
    group = tree.create(SESSION, sleeper.pid)
    assert group.directory == scope / f"agentd-{SESSION}"
    tree.move(group, sleeper.pid)
    assert group_of(sleeper.pid).endswith(f"/user.slice/session-1.scope/agentd-{SESSION}")
    second = tree.create("s-bbbbbbbb", sleeper.pid)  # beside the first, not below it
    assert second.directory == scope / "agentd-s-bbbbbbbb"


def test_not_inside_a_subtree_that_the_agent_may_write(
    tree: CgroupTree, sleeper: "subprocess.Popen[bytes]"
) -> None:
    service = tree.mount / "user.slice" / "user@1000.service"
    inner = service / "app.scope"
    inner.mkdir(parents=True)
    os.chown(service / "cgroup.procs", 1000, 1000)
    (inner / "cgroup.procs").write_text(str(sleeper.pid))
    group = tree.create(SESSION, sleeper.pid)
    assert group.directory == tree.mount / "user.slice" / f"agentd-{SESSION}"


def test_beside_threaded_groups(tree: CgroupTree, sleeper: "subprocess.Popen[bytes]") -> None:
    domain = tree.mount / "domain"
    threaded = domain / "threaded"
    threaded.mkdir(parents=True)
    (threaded / "cgroup.type").write_text("threaded")
    (domain / "cgroup.procs").write_text(str(sleeper.pid))
    group = tree.create(SESSION, sleeper.pid)
    assert group.directory == tree.mount / "agentd" / SESSION
    assert not (domain / f"agentd-{SESSION}").exists()
    tree.move(group, sleeper.pid)


def test_stale_groups_are_cleaned_and_used_ones_left(
    tree: CgroupTree, sleeper: "subprocess.Popen[bytes]"
) -> None:
    stale, used, kept = (tree.create(f"s-{letter * 8}") for letter in "abc")
    tree.move(used, sleeper.pid)
    (stale.directory / "made-by-the-agent").mkdir()
    assert tree.clean(keep=["s-cccccccc"]) == [used.directory]
    assert not stale.directory.exists()
    assert kept.directory.exists()
    assert group_of(sleeper.pid) == used.name


def test_a_process_that_is_gone_cannot_enter(tree: CgroupTree) -> None:
    group = tree.create(SESSION)
    with pytest.raises(CgroupError, match=SESSION):
        tree.move(group, 2**22 + 1)
