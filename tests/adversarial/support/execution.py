"""Ways to run a program that a rule denies.

`{tool}` is denied by its name, `{enrolled}` and `{script}` by their paths; they make the file that
is their argument, or `{effect}`. `{library}` makes it when it is loaded.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.adversarial.support.case import Case

FORBIDDEN_WORD, ASKED_WORD = "forbidden-word", "asked-word"
_LIBRARY: Final = """
#include <fcntl.h>
#include <stdlib.h>
__attribute__((constructor)) static void act(void)
{
    open(getenv("EFFECT"), O_CREAT | O_WRONLY, 0644);
}
"""


def lay(base: Path) -> dict[str, str]:
    """The programs, and the names that acts use for them."""
    place = base / "bin"
    place.mkdir()
    for name in ("forbidden-tool", "enrolled-tool"):
        shutil.copy("/bin/touch", place / name)
    script = place / "evil.sh"
    script.write_text('#!/bin/sh\n: > "$EFFECT"\n')
    script.chmod(0o755)
    source = base / "evil.c"
    source.write_text(_LIBRARY)
    libraries = [place / "evil.so", place / "closed.so"]
    subprocess.run(["clang", "-shared", "-fPIC", "-o", libraries[0], source], check=True)
    shutil.copy(*libraries)
    return {
        "bin": str(place),
        "tool": str(place / "forbidden-tool"),
        "enrolled": str(place / "enrolled-tool"),
        "script": str(script),
        "library": str(libraries[0]),
        "closed_library": str(libraries[1]),
        "forbidden_word": FORBIDDEN_WORD,
        "asked_word": ASKED_WORD,
    }


def rules(names: dict[str, str]) -> list[dict[str, Any]]:
    def rule(rule_id: str, match: dict[str, Any], action: str, **more: Any) -> dict[str, Any]:
        return {"id": rule_id, "on": "process.exec", "match": match, "action": action, **more}

    programs = [names["enrolled"], names["script"], names["library"]]
    return [
        rule("no-tool", {"exe": "**/forbidden-tool"}, "deny"),
        rule("no-program", {"exe": programs}, "deny"),
        rule("no-shared-memory", {"exe": "/dev/shm/**"}, "deny"),
        rule("no-memory-file", {"exe": "/memfd:*"}, "deny"),
        rule("no-word", {"argv": {"regex": FORBIDDEN_WORD}}, "kill"),
        rule(
            "ask-word",
            {"argv": {"regex": ASKED_WORD}},
            "hold",
            approve={"timeout": "5m", "on_timeout": "deny"},
        ),
        {
            "id": "no-library",
            "on": "file.open",
            "match": {"path": names["closed_library"], "access": ["read"]},
            "action": "deny",
        },
    ]


_MEMORY = """
f = os.memfd_create("x", 0)
os.write(f, open("/bin/touch", "rb").read())
"""
_BOUND = """
own_mounts(); open('{work}/b', 'w').close()
check(libc.mount(b'{it}', b'{work}/b', None, 0x1000, None))
run('{work}/b', '{effect}')
"""
_RUN = "run('{tool}', '{effect}')"

CASES = (
    Case("plain exec", "run('{tool}', '{effect}')"),
    Case(
        "renamed",
        "os.rename('{enrolled}', '{work}/r')\n"
        "try: status = spawn('{work}/r', '{effect}')\n"
        "finally: os.rename('{work}/r', '{enrolled}')\nsettle(status)",
    ),
    Case("symlink", "os.symlink('{tool}', '{work}/s'); run('{work}/s', '{effect}')"),
    Case("hard link", "os.link('{enrolled}', '{work}/h'); run('{work}/h', '{effect}')"),
    Case(
        "copied to another name",
        "import shutil; shutil.copy('{tool}', '{work}/c'); run('{work}/c', '{effect}')",
        "gap",
        "gap",
        "A copy is another program. A rule that denies reading the file denies the copy, and what"
        " the copy does is judged by the other rules.",
    ),
    Case(
        "bind mount of a program that is denied by its path", _BOUND.replace("{it}", "{enrolled}")
    ),
    Case(
        "bind mount of a program that is denied by its name",
        _BOUND.replace("{it}", "{tool}"),
        "gap",
        note="On the observe tier it has the name of the place where it is mounted.",
    ),
    Case("forged name in argv[0]", "os.execv('{tool}', ['[kworker/0:1]', '{effect}'])"),
    Case("forged comm", "libc.prctl(15, b'systemd', 0, 0, 0); " + _RUN),
    Case(
        "/proc/self/fd of an O_PATH descriptor",
        "f = os.open('{tool}', os.O_PATH); run(f'/proc/self/fd/{f}', '{effect}')",
    ),
    Case(
        "execveat of a directory descriptor",
        "d = os.open('{bin}', os.O_PATH)\n"
        "call(322, d, b'forbidden-tool', words_of('x', '{effect}'), words_of(), 0)",
    ),
    Case(
        "execveat of a descriptor, AT_EMPTY_PATH",
        "f = os.open('{tool}', os.O_PATH)\n"
        "call(322, f, b'', words_of('x', '{effect}'), words_of(), 0x1000)",
    ),
    Case(
        "memfd and execveat",
        _MEMORY + "call(322, f, b'', words_of('x', '{effect}'), words_of(), 0x1000)",
    ),
    Case("memfd and /proc/self/fd", _MEMORY + "run(f'/proc/self/fd/{f}', '{effect}')"),
    Case(
        "/dev/shm",
        "import shutil; p = f'/dev/shm/agentd-test-{os.getpid()}'; shutil.copy('/bin/touch', p)\n"
        "child = os.fork()\nif child == 0:\n"
        " try: os.execv(p, ['x', '{effect}'])\n finally: os._exit(1)\n"
        "status = os.waitpid(child, 0)[1]; os.unlink(p); settle(status)",
    ),
    Case(
        "script with the program as its interpreter",
        "open('{work}/s', 'w').write('#!{tool} {effect}\\n'); os.chmod('{work}/s', 0o755)\n"
        "run('{work}/s')",
    ),
    Case("script that a rule names", "run('{script}')"),
    Case(
        "script as an interpreter's argument",
        "run('/bin/sh', '{script}')",
        "gap",
        "gap",
        "The interpreter is what runs. A rule on its arguments, or one that denies reading the"
        " script, closes this.",
    ),
    Case(
        "script on an interpreter's standard input",
        "run('/bin/sh', file_actions=[(os.POSIX_SPAWN_OPEN, 0, '{script}', 0, 0)])",
        "gap",
        "gap",
        "As above, and there is no argument to judge: a rule that denies reading the script.",
    ),
    Case(
        "words in a command line",
        "run('/bin/sh', '-c', ': {forbidden_word}; : > $EFFECT')",
        enforce="killed",
    ),
    Case(
        "words that a person is asked about",
        "run('/bin/sh', '-c', ': {asked_word}; : > $EFFECT')",
        "held",
        "held",
        asks=True,
    ),
    Case(
        "words behind 100 KB of others",
        "run('/bin/touch', '{effect}', *['/nonexistent/' + 'x' * 1000] * 100,"
        " '/nonexistent/{forbidden_word}')",
        enforce="killed",
    ),
    Case(
        "ld.so with the program as its argument",
        "run('/lib64/ld-linux-x86-64.so.2', '{tool}', '{effect}')",
        "gap",
        note="On the observe tier the loader is the program; a rule that denies reading the file"
        " closes this.",
    ),
    Case(
        "LD_PRELOAD of a library that an exec rule names",
        "run('/bin/true', environment={'LD_PRELOAD': '{library}'})",
        "gap",
        note="Mapping to execute is judged like an exec on the enforce tiers only.",
    ),
    Case(
        "LD_PRELOAD of a library that may not be read",
        "run('/bin/true', environment={'LD_PRELOAD': '{closed_library}'})",
    ),
    Case(
        "double fork and setsid",
        "def act():\n os.setsid()\n"
        " pass_on(in_child(lambda: os.execv('{tool}', ['x', '{effect}'])))\n"
        "pass_on(in_child(act))",
    ),
    Case(
        "clone3, CLONE_PARENT",
        "a = (ctypes.c_uint64 * 11)(); a[0] = 0x8000\nchild = call(435, a, 88)\n"
        "if child == 0:\n try: os.execv('{tool}', ['x', '{effect}'])\n"
        " except OSError: os._exit(1)\n"
        "until = time.monotonic() + 60\n"
        "def gone(): return open(f'/proc/{child}/stat').read().rsplit(')', 1)[1][1] in 'ZX'\n"
        "while time.monotonic() < until and not gone(): time.sleep(0.01)\n"
        "code = int(open(f'/proc/{child}/stat').read().split()[-1])\n"
        "if code & 127: os.kill(os.getpid(), code & 127)\n"
        "if not os.path.exists('{effect}'): raise OSError(1, 'without effect')",
    ),
    Case(
        "exec by a thread",
        "t = threading.Thread(target=os.execv, args=('{tool}', ['x', '{effect}']))\n"
        "t.start(); t.join()\nif not os.path.exists('{effect}'): raise OSError(1, 'in the thread')",
    ),
    Case(
        "a Python start-up hook (.pth)",
        "v = 'python%d.%d' % sys.version_info[:2]; d = '{work}/u/lib/' + v + '/site-packages'\n"
        "os.makedirs(d)\n"
        "open(d + '/x.pth', 'w').write('import os; os.execv(\"{tool}\", [\"x\", \"{effect}\"])')\n"
        "run('/usr/bin/python3', '-c', '0', environment={'PYTHONUSERBASE': '{work}/u'})",
    ),
    Case(
        "credentials changed before the exec",
        "os.chdir('{work}'); os.chmod('.', 0o777); os.setgroups([]); os.setgid(65534)\n"
        "os.setuid(65534); os.execv('../bin/forbidden-tool', ['x', 'effect'])",
    ),
    Case(
        "a set-user-id shell as another user",
        "import shutil; shutil.copy('/bin/dash', '{work}/sh'); os.chmod('{work}/sh', 0o4755)\n"
        "os.chdir('{work}'); os.chmod('.', 0o777); os.setuid(65534)\n"
        "run('./sh', '-pc', 'exec ../bin/forbidden-tool effect')",
    ),
)
