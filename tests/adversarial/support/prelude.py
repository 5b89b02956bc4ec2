"""What every act of the adversarial tests begins with: system calls, children, and the effect."""

from typing import Final

PRELUDE: Final = """
import ctypes, errno, fcntl, mmap, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ENVIRONMENT = {"EFFECT": "{effect}", "PATH": "/usr/bin:/bin"}

def check(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return value

def call(number, *words):
    return check(libc.syscall(ctypes.c_long(number), *(
        ctypes.c_long(word) if isinstance(word, int) else word for word in words)))

def done():
    open("{effect}", "w").close()

def in_child(act):
    child = os.fork()
    if child == 0:
        code = 255
        try:
            act()
            code = 0
        except OSError as failure:
            code = failure.errno
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]

def pass_on(status):
    "What became of a child becomes of this process."
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "in the child")

def spawn(*words, **more):
    environment = ENVIRONMENT | more.pop("environment", {})
    child = os.posix_spawn(words[0], words, environment, **more)
    return os.waitpid(child, 0)[1]

def settle(status):
    "Of a program: EPERM if the effect is missing at its end, as a loader has statuses of its own."
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    if not os.path.exists("{effect}"):
        raise PermissionError(errno.EPERM, "without effect")

def run(*words, **more):
    settle(spawn(*words, **more))

def own_mounts():
    "A mount namespace, so that nothing of what is mounted is left."
    check(libc.unshare(0x20000))
    check(libc.mount(b"none", b"/", None, 0x44000, None))

def words_of(*words):
    return (ctypes.c_char_p * (len(words) + 1))(*(os.fsencode(word) for word in words), None)
"""
