"""Ways to read a secret that a rule denies by its path, as acts of a puppet.

`{secret}` is the file, `{vault}` the directory that the rule names with all that is below,
`{work}` a directory of the test's own on the same file system. An act that gets at the bytes sets
`result`.
"""

from tests.adversarial.support.case import Case

_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_CHECK = "if r < 0: raise OSError(ctypes.get_errno(), 'refused')\n"
# In a mount namespace of its own, so that nothing of it is left.
_OWN_MOUNTS = (
    _LIBC + "r = libc.unshare(0x20000)\n" + _CHECK
    + "r = libc.mount(b'none', b'/', None, 0x44000, None)\n" + _CHECK
)  # fmt: skip

CASES = (
    Case("plain open", "result = open('{secret}').read()"),
    Case("dot dot", "result = open('{vault}/../{vault_name}/./key').read()"),
    Case(
        "relative to the directory", "import os; os.chdir('{vault}'); result = open('key').read()"
    ),
    Case(
        "openat of a directory descriptor",
        "import os; d = os.open('{vault}', os.O_PATH)\n"
        "result = os.read(os.open('key', os.O_RDONLY, dir_fd=d), 99).decode()",
    ),
    Case(
        "symlink",
        "import os; os.symlink('{secret}', '{work}/s'); result = open('{work}/s').read()",
    ),
    Case(
        "symlinked directory",
        "import os; os.symlink('{vault}', '{work}/d'); result = open('{work}/d/key').read()",
    ),
    Case("/proc/self/root", "result = open('/proc/self/root{secret}').read()"),
    Case(
        "/proc/self/cwd",
        "import os; os.chdir('{vault}'); result = open('/proc/self/cwd/key').read()",
    ),
    Case(
        "/proc/self/fd of an O_PATH descriptor",
        "import os; f = os.open('{secret}', os.O_PATH)\nresult = open(f'/proc/self/fd/{f}').read()",
    ),
    Case(
        "/dev/fd of an O_PATH descriptor",
        "import os; f = os.open('{secret}', os.O_PATH)\nresult = open(f'/dev/fd/{f}').read()",
    ),
    Case(
        "hard link", "import os; os.link('{secret}', '{work}/h'); result = open('{work}/h').read()"
    ),
    Case(
        "hard link of an O_PATH descriptor",
        _LIBC + "f = os.open('{secret}', os.O_PATH)\n"
        "r = libc.linkat(-100, f'/proc/self/fd/{f}'.encode(), -100, b'{work}/h2', 0x400)\n"
        + _CHECK
        + "result = open('{work}/h2').read()",
    ),
    Case("rename", "import os; os.rename('{spare}', '{work}/r'); result = open('{work}/r').read()"),
    Case(
        "rename after many others",
        "import os; open('{work}/0', 'w').close()\n"
        "for n in range(200): os.rename(f'{work}/{n}', f'{work}/{n + 1}')\n"
        "os.rename('{spare}', '{work}/r'); result = open('{work}/r').read()",
    ),
    Case(
        "rename there and back",
        "import os; os.rename('{spare}', '{work}/r'); os.rename('{work}/r', '{vault}/back')\n"
        "result = open('{vault}/back').read()",
    ),
    Case(
        "exchange",
        _LIBC + "open('{work}/x', 'w').write('mine')\n"
        "r = libc.renameat2(-100, b'{spare}', -100, b'{work}/x', 2)\n"
        + _CHECK
        + "result = open('{work}/x').read()",
    ),
    Case(
        "rename of the directory",
        "import os; os.rename('{vault}', '{vault}2'); result = open('{vault}2/key').read()",
    ),
    Case(
        "rename of the directory above",
        "import os; os.rename('{above}', '{above}2')\n"
        "result = open('{above}2/{vault_name}/key').read()",
    ),
    Case(
        "bind mount of the directory",
        _OWN_MOUNTS + "os.mkdir('{work}/m')\n"
        "r = libc.mount(b'{vault}', b'{work}/m', None, 0x1000, None)\n"
        + _CHECK
        + "result = open('{work}/m/key').read()",
    ),
    Case(
        "bind mount of the file",
        _OWN_MOUNTS + "open('{work}/f', 'w').close()\n"
        "r = libc.mount(b'{secret}', b'{work}/f', None, 0x1000, None)\n"
        + _CHECK
        + "result = open('{work}/f').read()",
    ),
    Case(
        "detached mount tree",
        _OWN_MOUNTS + "t = libc.syscall(428, -100, b'{vault}', 1)\n"
        "r = t\n" + _CHECK + "result = os.read(os.open('key', os.O_RDONLY, dir_fd=t), 99).decode()",
    ),
    Case(
        "overlay above the directory",
        _OWN_MOUNTS + "os.mkdir('{work}/t')\n"
        "r = libc.mount(b'none', b'{work}/t', b'tmpfs', 0, None)\n"
        + _CHECK
        + "for d in ('up', 'wd', 'o'): os.mkdir('{work}/t/' + d)\n"
        "r = libc.mount(b'overlay', b'{work}/t/o', b'overlay', 0,"
        " b'lowerdir={vault},upperdir={work}/t/up,workdir={work}/t/wd')\n"
        + _CHECK
        + "result = open('{work}/t/o/key').read()",
        observe="gap",
    ),
    Case(
        "openat2",
        _LIBC + "import struct\nhow = struct.pack('QQQ', 0, 0, 0)\n"
        "r = libc.syscall(437, -100, b'{secret}', how, 24)\n"
        + _CHECK
        + "result = os.read(r, 99).decode()",
    ),
    Case(
        "mmap",
        "import mmap, os; f = os.open('{secret}', os.O_RDONLY)\n"
        "result = mmap.mmap(f, 0, prot=mmap.PROT_READ)[:].decode()",
    ),
    Case(
        "sendfile",
        "import os; f = os.open('{secret}', os.O_RDONLY)\n"
        "t = os.open('{work}/t', os.O_RDWR | os.O_CREAT)\n"
        "os.sendfile(t, f, 0, 99); result = open('{work}/t').read()",
    ),
    Case(
        "a thread",
        "import threading\ndef f():\n global result\n result = open('{secret}').read()\n"
        "t = threading.Thread(target=f); t.start(); t.join()\n"
        "if not result: raise PermissionError(1, 'in the thread')",
    ),
    Case(
        "double fork and setsid",
        "import os\nr, w = os.pipe()\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
        "  try: os.write(w, open('{secret}', 'rb').read())\n"
        "  except OSError as e: os.write(w, b'errno %d' % e.errno)\n  os._exit(0)\n os._exit(0)\n"
        "os.close(w); text = os.read(r, 99).decode()\n"
        "if text == 'errno 1': raise PermissionError(1, 'in the grandchild')\n"
        "if text: result = text\nelse: os.kill(os.getpid(), 9)",
    ),
    Case(
        "another user",
        "import os; os.chmod('{vault}', 0o755); os.chdir('{vault}'); os.setuid(65534)\n"
        "result = open('open').read()",
    ),
    Case(
        "a deep path",
        "result = open('{deep}').read()",
    ),
    Case(
        "a user namespace with mounts of its own",
        _LIBC
        + "u = os.getuid()\nr = libc.unshare(0x10020000)\n"
        + _CHECK
        + "open('/proc/self/setgroups', 'w').write('deny')\n"
        "open('/proc/self/uid_map', 'w').write(f'0 {u} 1')\nos.mkdir('{work}/n')\n"
        "r = libc.mount(b'{vault}', b'{work}/n', None, 0x1000, None)\n"
        + _CHECK
        + "result = open('{work}/n/key').read()",
    ),
)
