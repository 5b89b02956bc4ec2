"""What is told of processes and files: true paths, right identities, bounded numbers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, every_write_told, workload
from tests.host.support.labelled import Labelled, python, shell

OS = "import ctypes, os, sys\nlibc = ctypes.CDLL(None)\nbase = os.fsencode(sys.argv[1])\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("files")
    watch = {
        "id": "watch",
        "on": "file.open",
        "match": {"path": "**/*.watched-ending", "access": ["read"]},
        "action": "audit",
    }
    files = {
        "tested.yaml": workload("tested"),
        "judged.yaml": workload("judged"),
        "rules.yaml": {"rules": [watch]},
        "writes.yaml": every_write_told("judged"),
    }
    with Daemon(directory, files) as started:
        yield started


def acts(labelled: Labelled) -> list[tuple[str, ...]]:
    """The file events as (op, path) or (op, path, to)."""
    found = []
    for event in labelled.events():
        file = event.get("file")
        if file is not None:
            found.append(tuple(file[key] for key in ("op", "path", "to") if key in file))
    return found


# ---- processes -------------------------------------------------------------------------------


def test_exec_exit_and_fork(daemon: Daemon) -> None:
    labelled = shell(daemon, "/bin/sh -c 'exit 3' x 'ü \t'; sh -c 'kill -TERM $$'; true")
    assert labelled.finish() == 0
    root, first, second = labelled.events("process.exec")
    assert first["exec"]["argv"] == ["/bin/sh", "-c", "exit 3", "x", "ü \t"]
    assert first["exec"]["filename"] == "/bin/sh"
    assert first["process"]["exe"] == os.path.realpath("/bin/sh")
    assert first["process"]["ppid"] == root["process"]["pid"]
    assert first["process"]["ancestry"][0] == {
        "pid": root["process"]["pid"],
        "exe": os.path.realpath("/bin/bash"),
    }
    exits = {e["process"]["pid"]: e["exit"] for e in labelled.events("process.exit")}
    assert exits[first["process"]["pid"]] == {"code": 3}
    assert exits[second["process"]["pid"]] == {"signal": 15}
    assert exits[root["process"]["pid"]] == {"code": 0}
    assert labelled.events("process.fork")[0]["fork"]["child"] == first["process"]["pid"]
    times = [event["time"] for event in labelled.events()]
    assert times == sorted(times)


def test_relative_script(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    script.chmod(0o755)
    labelled = shell(daemon, f"cd {tmp_path}; ./run.sh one; true")
    labelled.finish()
    execed = labelled.events("process.exec")[1]["exec"]
    assert execed["exe"] == os.path.realpath("/bin/sh")
    assert os.path.normpath(execed["filename"]) == str(script)
    assert execed["argv"] == ["/bin/sh", "./run.sh", "one"]


# ---- paths -----------------------------------------------------------------------------------

PATHS: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "absolute": (
        ("os.close(os.open(base + b'/f', os.O_WRONLY | os.O_CREAT))\n"
        "os.truncate(base + b'/f', 0)\nos.link(base + b'/f', base + b'/l')\n"
        "os.rename(base + b'/f', base + b'/g')\nos.unlink(base + b'/g')\n"
        "os.mkdir(base + b'/d')\nos.rmdir(base + b'/d')"),
        [
            ("open", "{base}/f"),
            ("truncate", "{base}/f"),
            ("link", "{base}/f", "{base}/l"),
            ("rename", "{base}/f", "{base}/g"),
            ("delete", "{base}/g"),
            ("delete", "{base}/d"),
        ],
    ),
    "relative": (
        ("os.mkdir(base + b'/sub')\nos.chdir(base + b'/sub')\n"
        "os.close(os.open('../f', os.O_WRONLY | os.O_CREAT))\n"
        "os.rename('../f', './g')\nos.unlink('../sub/./g')"),
        [
            ("open", "{base}/f"),
            ("rename", "{base}/f", "{base}/sub/g"),
            ("delete", "{base}/sub/g"),
        ],
    ),
    "directory-descriptor": (
        ("os.mkdir(base + b'/sub')\nfd = os.open(base + b'/sub', 0)\nos.chdir('/')\n"
        "os.close(os.open('f', os.O_WRONLY | os.O_CREAT, dir_fd=fd))\n"
        "os.rename('f', '../g', src_dir_fd=fd, dst_dir_fd=fd)\nos.unlink('../g', dir_fd=fd)"),
        [
            ("open", "{base}/sub/f"),
            ("rename", "{base}/sub/f", "{base}/g"),
            ("delete", "{base}/g"),
        ],
    ),
    "linked-directory": (
        ("os.makedirs(base + b'/real/sub')\nos.symlink(base + b'/real/sub', base + b'/link')\n"
        "os.close(os.open(base + b'/link/f', os.O_WRONLY | os.O_CREAT))\n"
        "os.rename(base + b'/link/f', base + b'/link/../g')\nos.unlink(base + b'/link/../g')"),
        [
            ("open", "{base}/real/sub/f"),
            ("rename", "{base}/real/sub/f", "{base}/real/g"),
            ("delete", "{base}/real/g"),
        ],
    ),
    "link-itself": (
        ("os.symlink('/etc/passwd', base + b'/link')\n"
            "os.rename(base + b'/link', base + b'/other')\n"
        "os.unlink(base + b'/other')"),
        [("rename", "{base}/link", "{base}/other"), ("delete", "{base}/other")],
    ),
    "chroot": (
        ("os.mkdir(base + b'/jail')\nos.chroot(base + b'/jail')\nos.chdir('/')\n"
        "os.close(os.open('/f', os.O_WRONLY | os.O_CREAT))\nos.rename('/f', 'g')\nos.unlink('/g')"),
        [
            ("open", "{base}/jail/f"),
            ("rename", "{base}/jail/f", "{base}/jail/g"),
            ("delete", "{base}/jail/g"),
        ],
    ),
    "long-names": (
        ("name = b'n' * 255\nos.close(os.open(base + b'/' + name, os.O_WRONLY | os.O_CREAT))\n"
        "os.unlink(base + b'/' + name)"),
        [("open", "{base}/" + "n" * 255), ("delete", "{base}/" + "n" * 255)],
    ),
    "deep": (
        ("path = base + b'/d' * 300\nos.makedirs(path)\n"
        "os.close(os.open(path + b'/f', os.O_WRONLY | os.O_CREAT))\nos.unlink(path + b'/f')"),
        [("open", "{base}" + "/d" * 300 + "/f"), ("delete", "{base}" + "/d" * 300 + "/f")],
    ),
    "not-utf8": (
        ("os.close(os.open(base + b'/\\xff\\n', os.O_WRONLY | os.O_CREAT))\n"
        "os.unlink(base + b'/\\xff\\n')"),
        [("open", "{base}/\\xff\n"), ("delete", "{base}/\\xff\n")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", PATHS)
def test_paths_are_absolute_and_true(daemon: Daemon, tmp_path: Path, how: str) -> None:
    code, expected = PATHS[how]
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    told = [(op, *(p.replace("{base}", str(tmp_path)) for p in paths)) for op, *paths in expected]
    assert acts(labelled) == told


def test_path_longer_than_any_system_call_takes(daemon: Daemon, tmp_path: Path) -> None:
    """The end of it is right, and it does not look like a whole one."""
    code = """
os.chdir(base)
for each in range(40):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT))
"""
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    ((_, path),) = acts(labelled)
    assert path.startswith("/.../dddd")
    assert path.endswith("dddd/leaf")
    assert len(path) > 3500
    os.system(f"rm -rf {tmp_path}/ddd*")


def test_bind_mount(daemon: Daemon, tmp_path: Path) -> None:
    code = """
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
os.mkdir(base + b"/from")
os.mkdir(base + b"/at")
assert libc.mount(base + b"/from", base + b"/at", None, 4096, None) == 0
os.close(os.open(base + b"/at/f", os.O_WRONLY | os.O_CREAT))
"""
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    assert acts(labelled) == [("open", f"{tmp_path}/at/f")]


def test_failures_carry_the_error(daemon: Daemon, tmp_path: Path) -> None:
    code = """
os.mkdir(base + b"/full")
os.close(os.open(base + b"/full/f", os.O_WRONLY | os.O_CREAT))
for call in (lambda: os.rmdir(base + b"/full"), lambda: os.unlink(base + b"/full"),
             lambda: os.rename(base + b"/full/f", "/proc/x"), lambda: os.unlink(base + b"/no")):
    try:
        call()
    except OSError:
        pass
"""
    labelled = python(daemon, OS + code, tmp_path)
    labelled.finish()
    failed = [event["file"] for event in labelled.events() if "error" in event.get("file", ())]
    assert [file["error"] for file in failed] == [
        "Directory not empty",
        "Is a directory",
        "Invalid cross-device link",
    ]
    assert failed[2]["to"] == "/proc/x"


def test_watched_reads(daemon: Daemon, tmp_path: Path) -> None:
    watched = tmp_path / "a.watched-ending"
    watched.write_text("x")
    (tmp_path / "b").write_text("x")
    labelled = shell(daemon, f"cat {watched} {tmp_path}/b {watched}")
    labelled.finish()
    events = labelled.events("file.open")
    assert {event["file"]["path"] for event in events} == {str(watched)}
    assert events[0]["file"]["access"] == "read"
    assert events[0]["decision"]["rules"] == ["watch"]


# ---- numbers ---------------------------------------------------------------------------------


def counts(events: list[Message]) -> list[int]:
    return [event.get("count", 1) for event in events]


def test_ten_thousand_opens_of_one_file(daemon: Daemon, tmp_path: Path) -> None:
    code = "for each in range(10000): os.close(os.open(base + b'/f', os.O_WRONLY | os.O_CREAT))"
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish() == 0
    assert counts(labelled.events("file.open")) == [2**n for n in range(14)]
    assert labelled.events("session.end")[0]["totals"]["file.open"] == 10000


def test_compilation_does_not_flood(daemon: Daemon, tmp_path: Path) -> None:
    """200 files, each by a process with two children, as a compiler driver has."""
    compile_one = "sh -c ': > $1.s' x $n; sh -c ': > $1.o; rm $1.s' x $n"
    script = f"cd {tmp_path}; for n in $(seq 200); do {compile_one}; done"
    labelled = shell(daemon, script)
    assert labelled.finish(timeout=60) == 0
    events = labelled.events()
    processes = {event["process"]["pid"] for event in events if "process" in event}
    assert len(processes) >= 400
    # exec, exit, and one for each file that was written
    assert len(events) < 5 * len(processes)
    totals = labelled.events("session.end")[0]["totals"]
    assert totals["file.open"] == 400
    assert totals["file.change"] == 200
    assert len(labelled.events("file.delete")) < 80


def test_tree_of_packages_does_not_flood(daemon: Daemon, tmp_path: Path) -> None:
    """One process writes 3000 files under temporary names, renames and reads them back."""
    code = """
os.chdir(base)
for number in range(3000):
    name = b"p%d" % (number % 50)
    os.makedirs(name, exist_ok=True)
    path = name + b"/f%d" % number
    os.close(os.open(path + b".tmp", os.O_WRONLY | os.O_CREAT))
    os.rename(path + b".tmp", path)
    os.close(os.open(path, os.O_RDONLY))
    try:
        os.unlink(path + b".none")
    except OSError:
        pass
"""
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish(timeout=60) == 0
    assert labelled.events("session.end")[0]["totals"] == {
        "process.exec": 1,
        "process.exit": 1,
        "file.open": 3000,
        "file.change": 3000,
    }
    opens = [event["file"]["path"] for event in labelled.events("file.open")]
    assert len(opens) < 450
    assert len({Path(path).parent for path in opens[:256]}) == 50
    assert len({Path(path).parent for path in opens[256:]}) == 50
    assert len(labelled.events("file.rename")) < 100
    assert not daemon.events("loss")


MANY = """
for number in range(600):
    os.close(os.open(base + b"/plain%d" % number, os.O_WRONLY | os.O_CREAT))
for name in (b"/a.watched-ending", b"/b.watched-ending"):
    os.close(os.open(base + name, os.O_RDWR | os.O_CREAT))
os.mkdir(base + b"/other")
os.close(os.open(base + b"/other/first", os.O_WRONLY | os.O_CREAT))
"""


def test_many_plain_files_hide_neither_a_watched_one_nor_a_directory(
    daemon: Daemon, tmp_path: Path
) -> None:
    labelled = python(daemon, OS + MANY, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    events = labelled.events("file.open")
    told = [event["file"]["path"].removeprefix(f"{tmp_path}/") for event in events]
    assert told[:256] == [f"plain{number}" for number in range(256)]
    assert [event["count"] for event in events[256:] if "count" in event] == [16, 32, 64, 128, 256]
    assert told[-3:] == ["a.watched-ending", "b.watched-ending", "other/first"]
    assert labelled.events("session.end")[0]["totals"]["file.open"] == 603


def test_files_that_had_one_number_one_after_the_other(daemon: Daemon, tmp_path: Path) -> None:
    code = """
for number in range(20):
    os.close(os.open(base + b"/f%d" % number, os.O_WRONLY | os.O_CREAT))
    os.unlink(base + b"/f%d" % number)
"""
    labelled = python(daemon, OS + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    told = [event["file"]["path"] for event in labelled.events("file.open")]
    assert told == [f"{tmp_path}/f{number}" for number in range(20)]


def test_writes_that_a_rule_may_judge_are_all_told(daemon: Daemon, tmp_path: Path) -> None:
    labelled = python(daemon, OS + MANY, tmp_path, workload="judged")
    assert labelled.finish() == 0, labelled.errors
    decided = [e for e in labelled.events("file.open") if e["decision"]["rules"][0]]
    assert len(decided) == 603
