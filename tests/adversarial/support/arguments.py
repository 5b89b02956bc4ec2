"""Ways to change what a call is given between its judgement and its use (TOCTOU).

`{open}` and `{closed}` are two files whose paths are equally long; rules deny the second. `{asked}`
is one that a person is asked about. Each act tries until it has been refused often enough.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.adversarial.support.case import UNTRIED, Case

if TYPE_CHECKING:
    from tests.adversarial.support.arena import Arena

CLOSED_TEXT: Final = "closed-text"


def lay(base: Path) -> dict[str, str]:
    """The files that acts open."""
    place = base / "files"
    for name in ("opened", "closed"):
        (place / name).mkdir(parents=True)
        (place / name / "key").write_text(f"{name}-text")
    (place / "asked").write_text("asked-text")
    return {
        "open": str(place / "opened" / "key"),
        "closed": str(place / "closed" / "key"),
        "open_place": str(place / "opened"),
        "closed_place": str(place / "closed"),
        "asked": str(place / "asked"),
    }


def rules(names: dict[str, str]) -> list[dict[str, Any]]:
    def rule(rule_id: str, path: str, action: str, **more: Any) -> dict[str, Any]:
        return {"id": rule_id, "on": "file.open", "match": {"path": path}, "action": action, **more}

    return [
        rule("no-file", f"{names['closed_place']}/**", "deny"),
        rule("ask-file", names["asked"], "hold", approve={"timeout": "5m", "on_timeout": "deny"}),
    ]


def _reached(arena: "Arena") -> bool:
    return arena.servers.is_reached()


# `attempt(try_it)` calls until it has been refused {tries} times, for at most 20 s.
_RACE = """
sys.setswitchinterval(1e-4)
def attempt(try_it):
    refused, until = 0, time.monotonic() + 20
    while refused < {tries} and time.monotonic() < until:
        try:
            try_it()
        except PermissionError:
            refused += 1
    if not refused:
        raise OSError(errno.ETIME, "the other value was never met")
    raise PermissionError(errno.EPERM, "each time")

def read(f):
    try:
        if os.pread(f, 99, 0) == b"closed-text":
            done()
            os._exit(0)
    finally:
        os.close(f)
"""
_FLIP_PATH = (
    _RACE
    + """
names = [os.fsencode('{open}'), os.fsencode('{closed}')]
memory = mmap.mmap(-1, 4096)
path = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def flip():
    while True:
        for name in names:
            memory[0:len(name)] = name
def try_it():
    read(check(libc.open(ctypes.c_void_p(path), 0)))
memory[0:len(names[0])] = names[0]
"""
)
_FLIP_ADDRESS = (
    _RACE
    + """
def packed(address):
    return struct.pack('=HH4s8x', 2, socket.htons({port}), socket.inet_aton(address))
names = [packed('{free}'), packed('{denied}')]
memory = mmap.mmap(-1, 4096)
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def flip():
    while True:
        for name in names:
            memory[0:16] = name
def try_it():
    with socket.socket() as s:
        check(libc.connect(s.fileno(), ctypes.c_void_p(place), 16))
memory[0:16] = names[0]
"""
)
_THREAD = "threading.Thread(target=flip, daemon=True).start(); attempt(try_it)"
_PROCESS = """
flipper = os.fork()
if flipper == 0:
    libc.prctl(1, 9, 0, 0, 0)
    flip()
try:
    attempt(try_it)
finally:
    os.kill(flipper, 9); os.waitpid(flipper, 0)
"""
# A page that the kernel must wait for while it copies the argument in: the value is given then.
_FAULT = """
uffd = call(323, 0)
memory = mmap.mmap(-1, 4096)
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
api = struct.pack('QQQ', 0xaa, 0, 0)
fcntl.ioctl(uffd, 0xc018aa3f, bytearray(api))
fcntl.ioctl(uffd, 0xc020aa00, bytearray(struct.pack('QQQQ', place, 4096, 1, 0)))
def give(value):
    def serve():
        os.read(uffd, 32)
        time.sleep(0.2)
        page = ctypes.create_string_buffer(value, 4096)
        fcntl.ioctl(uffd, 0xc028aa03,
                    bytearray(struct.pack('QQQQq', place, ctypes.addressof(page), 4096, 0, 0)))
    threading.Thread(target=serve, daemon=True).start()
"""
_SWAP = (
    _RACE
    + """
def flip():
    while True:
        for target in ('{open_target}', '{closed_target}'):
            os.symlink(target, '{work}/new'); os.rename('{work}/new', '{work}/s')
def try_it():
    read(os.open('{work}/s{rest}', os.O_RDONLY))
os.symlink('{open_target}', '{work}/s')
"""
)


def _swap(target: str, rest: str) -> str:
    source = _SWAP.replace("{open_target}", "{open" + target + "}")
    return source.replace("{closed_target}", "{closed" + target + "}").replace("{rest}", rest)


_ARGUMENTS = """
def race():
    words = [b"{work}/harmless-words", b"{work}/{forbidden_word}"]
    memory = mmap.mmap(-1, 4096)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[0:len(words[0])] = words[0]
    def flip():
        while True:
            for word in words:
                memory[0:len(word)] = word
    threading.Thread(target=flip, daemon=True).start()
    argv = (ctypes.c_void_p * 3)(ctypes.cast(ctypes.c_char_p(b"touch"), ctypes.c_void_p), place, 0)
    time.sleep(0.001)
    check(libc.execve(b"/bin/touch", argv, words_of()))
killed = 0
for each in range(40):
    status = in_child(race)
    killed += os.WIFSIGNALED(status)
if os.path.exists("{work}/{forbidden_word}"):
    done()
elif killed:
    os.kill(os.getpid(), 9)
"""
_TRACER = """
name = ctypes.create_string_buffer(b'{open}')
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), 19)
    code = 255
    f = libc.open(name, 0)
    code = ctypes.get_errno() if f < 0 else 0
    if f >= 0 and os.read(f, 99) == b'closed-text':
        done()
    os._exit(code)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long] * 4
os.waitpid(child, 0)
while True:
    libc.ptrace(24, child, 0, 0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        break
    if libc.ptrace(3, child, 15 * 8, 0) in (2, 257):
        with open(f'/proc/{child}/mem', 'wb', 0) as memory:
            memory.seek(ctypes.addressof(name)); memory.write(b'{closed}')
pass_on(status)
"""


def _file(name: str, source: str, **more: Any) -> Case:
    return Case(name, source.replace("{tries}", "100"), **more)


def _connect(name: str, source: str) -> Case:
    return Case(name, source.replace("{tries}", "100"), "denied", "denied", happened=_reached)


def _raced(name: str, source: str) -> Case:
    note = "On the observe tier the program is refused or killed, as chance has it."
    source = source.replace("{tries}", "100")
    return Case(name, source, UNTRIED, "denied", note, happened=_reached)


CASES = (
    _file("a thread swaps the path of an open", _FLIP_PATH + _THREAD),
    _file("a process that shares the memory swaps it", _FLIP_PATH + _PROCESS),
    _file(
        "the path arrives while the call waits for it (userfaultfd)",
        _RACE + _FAULT + "give(b'{closed}'); read(check(libc.open(ctypes.c_void_p(place), 0)))",
    ),
    _file("a symlink swapped in a loop", _swap("", "") + _PROCESS),
    _file("a symlinked directory swapped in a loop", _swap("_place", "/key") + _PROCESS),
    _file("a tracer writes another path at the call's entry", _TRACER),
    Case("a thread swaps the arguments of an exec", _ARGUMENTS, enforce="killed"),
    _raced("a thread swaps the address of a connect", _FLIP_ADDRESS + _THREAD),
    _raced("a process that shares the memory swaps the address", _FLIP_ADDRESS + _PROCESS),
    _connect(
        "the address arrives while the call waits for it (userfaultfd)",
        _FAULT + "s = socket.socket()\n"
        "give(struct.pack('=HH4s8x', 2, socket.htons({port}), socket.inet_aton('{denied}')))\n"
        "check(libc.connect(s.fileno(), ctypes.c_void_p(place), 16))",
    ),
)
