"""Ways out of a session: into an unlabelled process, into what runs later, off the process tree.

`{victim}` is the victim's process, `{address}` that of 16 bytes of its memory, `{descriptor}` one
of its descriptors, of the file `{secret}`. `{later}` holds the places of what runs later; `{spool}`
lies on the same file system.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.adversarial.support import targets
from tests.adversarial.support.case import Case

if TYPE_CHECKING:
    from tests.adversarial.support.arena import Arena

PLANTED: Final = "planted"
_PLACES: Final = (
    "cron.d", "systemd/system", "repository/.git/hooks", "site-packages", "home",
)  # fmt: skip

BY_DESCRIPTOR: Final = """
r, w = socket.socketpair(); r = os.dup2(r.detach(), 200)
fcntl.fcntl(r, fcntl.F_SETOWN, {target}); fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
"""
"""The kernel sends SIGKILL when something can be read."""
BY_WRITE: Final = (
    BY_DESCRIPTOR
    + """
w.send(b"x")
time.sleep(0.3)
fcntl.fcntl(r, fcntl.F_SETFL, 0)
os.kill({target}, 0)
raise PermissionError(errno.EPERM, "it lives")
"""
)


def lay(base: Path) -> dict[str, str]:
    """The places of what runs later, in a directory that may be a file system of its own."""
    later, spool = base / "volume" / "later", base / "volume" / "spool"
    spool.mkdir(parents=True)
    for place in _PLACES:
        (later / place).mkdir(parents=True)
    (later / "home" / ".bashrc").write_text("old")
    return {"later": str(later), "spool": str(spool), "planted": PLANTED}


def rules(names: dict[str, str]) -> list[dict[str, Any]]:
    later = names["later"]
    closed = [f"{later}/cron.d/*", f"{later}/systemd/**", f"{later}/**/.git/hooks/*"]
    closed.append(f"{later}/site-packages/*.pth")
    victim = {"exe": "**/victim"}

    def rule(rule_id: str, on: str, match: dict[str, Any]) -> dict[str, Any]:
        return {"id": rule_id, "on": on, "match": match, "action": "deny"}

    return [
        rule("no-trace", "process.trace", victim),
        rule("no-signal", "process.signal", victim | {"signal": ["KILL", "STOP", "TERM", "USR1"]}),
        rule("no-namespace", "process.namespace", {"kind": ["user", "join"]}),
        rule("no-later", "file.open", {"path": closed, "access": ["write"]}),
        rule("no-later-name", "file.rename", {"path": closed}),
        rule("no-environment", "file.open", {"path": "/proc/**/environ", "access": ["read"]}),
        {
            "id": "ask-startup",
            "on": "file.open",
            "match": {"path": f"{later}/home/.bashrc", "access": ["write"]},
            "action": "hold",
            "approve": {"timeout": "5m", "on_timeout": "deny"},
        },
    ]


def _touched(arena: "Arena") -> bool:
    return not arena.victim.is_untouched()


def _planted(arena: "Arena") -> bool:
    files = [path for path in Path(arena.names["later"]).rglob("*") if path.is_file()]
    found = [path for path in files if PLANTED in path.read_text()]
    for path in files:  # who is killed in time leaves an empty one
        if path in found or not path.stat().st_size:
            path.unlink()
    (Path(arena.names["later"]) / "home" / ".bashrc").write_text("old")
    return bool(found)


def _reached(arena: "Arena") -> bool:
    return arena.servers.is_reached()


def _ended(arena: "Arena") -> None:
    arena.names["gone"] = str(targets.ended_pid())


_UNSEEN = "The observe tier does not see it."
_LATE = "It is seen when it has happened; the process is killed after it."
_IOVEC = """
b = ctypes.create_string_buffer(b"overwritten", 16)
local = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 16)
remote = (ctypes.c_uint64 * 2)({address}, 16)
"""


def _victim(name: str, source: str) -> Case:
    return Case(name, source, "gap", "denied", _UNSEEN, _touched)


def _unseen(name: str, source: str) -> Case:
    return Case(name, source + "\ndone()", "gap", "denied", _UNSEEN)


def _later(name: str, source: str, observe: str = "killed") -> Case:
    late = _LATE if observe == "detected" else ""
    return Case(name, source, observe, "denied", late, _planted)


CASES = (
    _unseen(
        "ptrace attach",
        "call(101, 16, {victim}, 0, 0)\nos.waitpid({victim}, 0x40000000)\n"
        "call(101, 17, {victim}, 0, 0)",
    ),
    _unseen("ptrace seize", "call(101, 0x4206, {victim}, 0, 0)"),
    _victim("process_vm_writev", _IOVEC + "call(311, {victim}, local, 1, remote, 1, 0)"),
    _unseen("process_vm_readv", _IOVEC + "call(310, {victim}, local, 1, remote, 1, 0)"),
    _victim(
        "a write to /proc/PID/mem",
        "f = os.open('/proc/{victim}/mem', os.O_RDWR); os.pwrite(f, b'overwritten', {address})",
    ),
    _victim(
        "a write to /proc/PID/task/TID/mem by a child",
        "def act():\n f = os.open('/proc/{victim}/task/{victim}/mem', os.O_WRONLY)\n"
        " os.pwrite(f, b'overwritten', {address})\npass_on(in_child(act))",
    ),
    Case(
        "/proc/PID/environ",
        "if b'victim-secret' in open('/proc/{victim}/environ', 'rb').read(): done()",
    ),
    _unseen(
        "a descriptor by pidfd_getfd",
        "f = call(438, call(434, {victim}, 0), {descriptor}, 0); os.pread(f, 9, 0)",
    ),
    _unseen("a file through /proc/PID/fd", "open('/proc/{victim}/fd/{descriptor}').read()"),
    _victim("SIGKILL", "os.kill({victim}, 9)"),
    _victim("SIGSTOP", "os.kill({victim}, 19)"),
    _victim("a signal to a process group", "os.killpg({victim}, 9)"),
    _victim("tgkill", "call(234, {victim}, {victim}, 9)"),
    _victim(
        "rt_sigqueueinfo",
        "i = struct.pack('iii116x', 9, 0, -1); call(129, {victim}, 9, i)",
    ),
    _victim("pidfd_send_signal", "call(424, call(434, {victim}, 0), 9, 0, 0)"),
    _unseen("a user namespace", "check(libc.unshare(0x10000000))"),
    _unseen(
        "a user namespace by clone3",
        "a = (ctypes.c_uint64 * 11)(); a[0] = 0x10000000; a[4] = 17\nchild = call(435, a, 88)\n"
        "if child == 0: os._exit(0)\nos.waitpid(child, 0)",
    ),
    _unseen(
        "setns of a namespace file",
        "check(libc.setns(os.open('/proc/{victim}/ns/uts', 0), 0))",
    ),
    _unseen("setns of a pidfd", "check(libc.setns(call(434, {victim}, 0), 0x4000000))"),
    _later("a cron job", "open('{later}/cron.d/job', 'w').write('{planted}')"),
    _later("a systemd unit", "open('{later}/systemd/system/x.service', 'w').write('{planted}')"),
    _later(
        "a git hook", "open('{later}/repository/.git/hooks/pre-commit', 'w').write('{planted}')"
    ),
    _later("a Python start-up hook", "open('{later}/site-packages/x.pth', 'w').write('{planted}')"),
    Case(
        "a shell's start-up file",
        "open('{later}/home/.bashrc', 'a').write('{planted}')",
        "held",
        "held",
        happened=_planted,
        asks=True,
    ),
    _later(
        "through a symlinked directory",
        "os.symlink('{later}/cron.d', '{work}/d'); open('{work}/d/job', 'w').write('{planted}')",
    ),
    _later(
        "renamed into its place",
        "open('{spool}/r', 'w').write('{planted}'); os.rename('{spool}/r', '{later}/cron.d/job')",
        "detected",
    ),
    _later(
        "linked into its place",
        "open('{spool}/l', 'w').write('{planted}'); os.link('{spool}/l', '{later}/cron.d/job')",
        "detected",
    ),
    _later(
        "an unnamed file, linked into its place",
        "f = os.open('{spool}', os.O_TMPFILE | os.O_RDWR); os.write(f, b'{planted}')\n"
        "check(libc.linkat(-100, f'/proc/self/fd/{f}'.encode(), -100, b'{later}/cron.d/job',"
        " 0x400))",
        "detected",
    ),
    Case(
        "another control group, then a connect",
        "open('{procs}', 'w').write(str(os.getpid()))\n"
        "socket.socket().connect(('{denied}', {port}))",
        "detected",
        "denied",
        "On the observe tier the kernel refuses connects by control group; outside of it they are"
        " seen when they have happened, and the process is killed after it.",
        _reached,
    ),
    Case(
        "the process id of an unlabelled process that has ended",
        "ids = (ctypes.c_int32 * 1)({gone}); a = (ctypes.c_uint64 * 11)()\n"
        "a[4] = 17; a[8] = ctypes.addressof(ids); a[9] = 1\nchild = call(435, a, 88)\n"
        "if child == 0:\n code = 255\n try: open('{closed}').read(); done(); code = 0\n"
        " except OSError as e: code = e.errno\n finally: os._exit(code)\n"
        "pass_on(os.waitpid(child, 0)[1])",
        before=_ended,
    ),
)
