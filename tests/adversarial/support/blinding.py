"""Ways to keep agentd from seeing or deciding: other system calls, too many of them, agentd itself.

`{engine}` and `{supervisor}` are its processes, `{rules}`, `{journal}`, `{control}` and `{pins}`
its files, `{configuration}` its settings; `{closed}` is a file that a rule denies.
"""

import contextlib
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from tests.adversarial.support.case import UNTRIED, Case
from tests.adversarial.support.tree import BY_WRITE
from tests.host.support.control import ControlError
from tests.host.support.processes import wait_until
from tests.host.support.uring import URING

if TYPE_CHECKING:
    from tests.adversarial.support.arena import Arena

EVIL: Final = "evil"
_PATIENCE_S: Final = 60.0
_SHOWS_S: Final = 0.5
_HARM: Final = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE}
_STANDS_STILL_S: Final = 60.0


def lay(base: Path) -> dict[str, str]:
    """A place for deep directories."""
    return {"flood": str(base / "flood")}


def _own_processes(arena: "Arena") -> None:
    processes = arena.daemon.processes()
    arena.names["supervisor"] = str(arena.daemon.pid)
    arena.names["engine"] = str(arena.daemon.request("ping")["pid"])
    arena.names["mine"] = " ".join(str(process.pid) for process in processes)


def _is_hurt(arena: "Arena") -> bool:
    """Whether one of its processes goes or stands still; then it is brought back."""
    pids = [int(pid) for pid in arena.names["mine"].split()]
    try:
        wait_until(lambda: any(map(_is_gone_or_still, pids)), _SHOWS_S, "harm")
    except AssertionError:
        return False
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()
    wait_until(lambda: _answers(arena), _PATIENCE_S, "the engine answers again")
    return True


def _is_gone_or_still(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in _HARM
    except psutil.NoSuchProcess:
        return True


def _answers(arena: "Arena") -> bool:
    with contextlib.suppress(OSError, ControlError):
        arena.daemon.request("ping")
        return True
    return False


def _own_files(arena: "Arena") -> None:
    daemon = arena.daemon
    arena.names["rules"] = str(daemon.rules_dir)
    arena.names["journal"] = str(daemon.journal)
    arena.names["control"] = str(daemon.socket)
    arena.names["configuration"] = str(daemon.configuration)
    arena.names["pins"] = str(arena.pins)
    arena.before = daemon.configuration.read_text()


def _is_changed(arena: "Arena") -> bool:
    """Whether its files are not what they were; then they are put right."""
    daemon = arena.daemon
    moved = Path(f"{daemon.journal}.{EVIL}")
    found = [path for path in daemon.rules_dir.iterdir() if EVIL in path.name]
    for path in found:
        path.unlink()
    changed = bool(found)
    if moved.exists():
        moved.rename(daemon.journal)
        changed = True
    if daemon.configuration.read_text() != arena.before:
        daemon.configuration.write_text(arena.before)
        changed = True
    away = Path(f"{daemon.socket}.{EVIL}")
    if away.exists():
        away.rename(daemon.socket)
        changed = True
    return changed


def _stop_engine(arena: "Arena") -> None:
    _own_processes(arena)
    flood = Path(arena.names["flood"])
    shutil.rmtree(flood, ignore_errors=True)
    flood.mkdir()
    engine = psutil.Process(int(arena.names["engine"]))
    engine.suspend()
    # An act that waits for its verdict must not wait for ever.
    arena.timer = threading.Timer(_STANDS_STILL_S, _resume, [engine])
    arena.timer.start()


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def _effect_and_loss(arena: "Arena") -> bool:
    """Whether the file was read; the ring must have been too small."""
    arena.timer.cancel()
    with contextlib.suppress(psutil.NoSuchProcess):  # on a slow machine it is killed as hanging
        psutil.Process(int(arena.names["engine"])).resume()
    wait_until(lambda: _answers(arena), _PATIENCE_S, "the engine answers again")
    arena.daemon.wait_for(_is_loss_of_the_ring, _PATIENCE_S, "a loss")
    return Path(arena.names["effect"]).exists()


def _is_loss_of_the_ring(event: dict[str, Any]) -> bool:
    return event["class"] == "loss" and str(event["loss"]["source"]).startswith("kernel.")


def _reached(arena: "Arena") -> bool:
    return arena.servers.is_reached()


_UNSEEN = "The observe tier does not see it."
_ASYNC = URING + "ring = Ring()\n"
_POLL = URING + "ring = Ring(Ring.POLLED)\n"
_BY_RING = "if b'closed-text' in os.pread(ring.open('{closed}'), 99, 0): done()"
_FLOOD = """
for each in range({opens}):
    os.close(os.open('/etc/hostname', 0))
"""
_THEN_READ = "if open('{closed}').read() == 'closed-text': done()"
# Each record has a path of more than 1 KiB: together they are more than the ring takes.
_OVERRUN = """
os.chdir('{flood}')
for each in range(10):
    os.mkdir('d' * 120); os.chdir('d' * 120)
s = socket.socket(socket.AF_UNIX)
for each in range(7000):
    s.connect_ex('nobody%d' % each)
time.sleep(2.5)
"""
_APPROVE = """
import json
child = os.fork()
if child == 0:
    try: open('{asked}').read(); done()
    except OSError as failure: os._exit(failure.errno)
    os._exit(0)
for each in range(200):
    if open(f'/proc/{child}/stat').read().rpartition(')')[2].split()[0] in 'TZ': break
    time.sleep(0.05)
def ask(op, **more):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect('{control}')
        s.sendall(json.dumps({'op': op, **more}).encode() + b'\\n')
        return json.loads(s.makefile().readline())
"""


def _hurt(name: str, source: str) -> Case:
    note = "Nothing on this tier can refuse it. The supervisor starts an engine that is gone anew."
    return Case(name, source, "gap", "denied", note, _is_hurt, _own_processes, is_free=False)


def _change(name: str, source: str) -> Case:
    note = "Nothing on this tier protects agentd's files from root."
    return Case(name, source, "gap", "denied", note, _is_changed, _own_files, is_free=False)


def _pin(name: str, source: str) -> Case:
    note = "Nothing is pinned on the observe tier."
    return Case(name, source + "; done()", UNTRIED, "denied", note, before=_own_files)


def _ring(name: str, source: str) -> Case:
    return Case(name, source, "gap", "denied", "The observe tier does not see io_uring.")


CASES = (
    _ring("open by io_uring", _ASYNC + _BY_RING),
    _ring(
        "open by io_uring, in a worker thread",
        _ASYNC + _BY_RING.replace("'{closed}'", "'{closed}', Ring.FORCED_ASYNC"),
    ),
    _ring("open by io_uring, polled by the kernel", _POLL + _BY_RING),
    _ring(
        "open and read by io_uring",
        _ASYNC + "if b'closed-text' in ring.read(ring.open('{closed}')): done()",
    ),
    Case(
        "connect by io_uring",
        _ASYNC + "s = socket.socket()\nring.connect(s.fileno(), '{denied}', {port})",
        "denied",
        happened=_reached,
    ),
    Case(
        "connect by io_uring, polled by the kernel",
        _POLL + "s = socket.socket()\nring.connect(s.fileno(), '{denied}', {port})",
        "denied",
        happened=_reached,
    ),
    Case("20,000 opens, then the denied one", _FLOOD.replace("{opens}", "20000") + _THEN_READ),
    Case(
        "records for more than the ring takes while the engine stands still, then the denied open",
        _OVERRUN + _THEN_READ,
        note="On the observe tier, where nobody judges for two seconds the workload's on_failure"
        " does.",
        happened=_effect_and_loss,
        before=_stop_engine,
    ),
    Case(
        "SIGCONT to a held process",
        _APPROVE + "os.kill(child, 18); pass_on(os.waitpid(child, 0)[1])",
        "detected",
        note="On the observe tier nothing can refuse the signal. It is noticed within 250 ms: the"
        " process is stopped again, and killed where the answer is no; what it did until then is"
        " done.",
        asks=True,
    ),
    Case(
        "approval of its own call",
        _APPROVE + "answers = [ask('approve', id=h['id']) for h in ask('holds')['holds']]\n"
        "if not any(a.get('ok') for a in answers): raise OSError(1, str(answers))",
        "denied",
        before=_own_files,
        asks=True,
        is_free=False,
    ),
    _hurt("SIGKILL to the engine", "os.kill({engine}, 9)"),
    _hurt("SIGSTOP to the engine", "os.kill({engine}, 19)"),
    _hurt("SIGSTOP to the supervisor", "os.kill({supervisor}, 19)"),
    _hurt(
        "ptrace of the engine",
        "call(101, 16, {engine}, 0, 0); os.waitpid({engine}, 0x40000000)\n"
        "call(101, 17, {engine}, 0, 19)",
    ),
    _hurt(
        "SIGKILL to the engine by way of F_SETSIG",
        BY_WRITE.replace("{target}", "{engine}"),
    ),
    Case(
        "bpf()",
        "a = ctypes.create_string_buffer(struct.pack('IIII', 2, 4, 8, 1), 128)\n"
        "call(321, 0, a, 128); done()",
        "gap",
        note=_UNSEEN,
    ),
    _change("a rule file of its own", "open('{rules}/evil.yaml', 'w').write('disable: [\"*\"]')"),
    _change("its configuration", "open('{configuration}', 'a').write('# evil')"),
    _change("the journal, moved away", "os.rename('{journal}', '{journal}.evil')"),
    _change("the control socket, moved away", "os.rename('{control}', '{control}.evil')"),
    _pin("unlinking a pin", "import glob\nos.unlink(glob.glob('{pins}/links/*')[0])"),
    _pin("renaming the pins", "os.rename('{pins}', '{pins}x')"),
    _pin("umount of the bpf file system", "check(libc.umount2(b'/sys/fs/bpf', 2))"),
    _pin(
        "umount of it in a mount namespace of its own",
        "own_mounts(); check(libc.umount2(b'/sys/fs/bpf', 2))",
    ),
    _pin(
        "a mount over the pins",
        "own_mounts(); check(libc.mount(b'none', b'{pins}', b'tmpfs', 0, None))",
    ),
)
