"""Finding cgroup2 in made-up mount tables; what it does there is in tests/host."""

from pathlib import Path

from agentd.workloads.cgroups import CgroupTree

V1 = "34 31 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"


def find(tmp_path: Path, table: str) -> tuple[CgroupTree | None, str]:
    file = tmp_path / "mountinfo"
    file.write_text(table)
    return CgroupTree.find(file)


def test_hybrid(tmp_path: Path) -> None:
    tree, explanation = find(tmp_path, HYBRID)
    assert tree is not None
    assert tree.mount == Path("/sys/fs/cgroup/unified")
    assert "hybrid" in explanation


def test_the_best_of_several_mounts(tmp_path: Path) -> None:
    tree, explanation = find(
        tmp_path,
        "1 2 0:1 / /read-only ro - cgroup2 none rw\n"
        "3 2 0:1 /docker/x /part rw - cgroup2 none rw\n"
        "4 2 0:1 / /with\\040blank rw - cgroup2 none rw\n",
    )
    assert tree is not None
    assert tree.mount == Path("/with blank")
    assert "unified" in explanation


def test_none(tmp_path: Path) -> None:
    tree, explanation = find(tmp_path, V1)
    assert tree is None
    assert "mount -t cgroup2" in explanation
    tree, explanation = find(tmp_path, "1 2 0:1 / /x ro - cgroup2 none rw\n")
    assert tree is None
    assert "read-only" in explanation
