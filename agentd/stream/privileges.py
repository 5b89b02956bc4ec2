"""Gives up root for good: the publisher talks to the network."""

import ctypes
import os
import pwd
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522
_FALLBACK = "nobody"


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def account(user: str) -> pwd.struct_passwd:
    """The user to become: `user`, or nobody if this host has none. Raises KeyError."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return pwd.getpwnam(_FALLBACK)


def drop(user: str) -> None:
    """Become `user` with no groups, no capabilities, no way back, no core dump, no tracer.

    The process dies with its parent. Where the process is not root, the user stays and the rest is
    done. Raises OSError or KeyError; the caller must then not go on.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, value: int = 0) -> None:
        if libc.prctl(option, value, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"prctl {option}")

    if os.geteuid() == 0:
        target = account(user)
        if target.pw_uid == 0:
            raise OSError(0, "the publisher must not run as root; name another user", user)
        for capability in range(_last_capability() + 1):
            prctl(_PR_CAPBSET_DROP, capability)
        os.setgroups([])
        os.setresgid(target.pw_gid, target.pw_gid, target.pw_gid)
        os.setresuid(target.pw_uid, target.pw_uid, target.pw_uid)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(_CapHeader(_CAP_VERSION_3, 0)), none) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "capset")
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Changing user resets these two (prctl(2)), so they come last.
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise OSError(0, "the parent process is gone")


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read())
