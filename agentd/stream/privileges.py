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
_CAP_DAC_READ_SEARCH = 2
_FALLBACK = "nobody"

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def account(user: str) -> pwd.struct_passwd:
    """The user to become: `user`, or nobody if this host has none. Raises KeyError."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return pwd.getpwnam(_FALLBACK)


def become(user: str) -> None:
    """Act as `user`, with no groups and one capability: to read any file, and write none.

    So SQLite opens the journal's WAL read-only, which it would not do for root. The real user is
    still root, because SQLite asks access(2), which goes by it. Where the process is not root,
    nothing changes. Raises OSError or KeyError.
    """
    if os.geteuid() != 0:
        return
    target = account(user)
    if target.pw_uid == 0:
        raise OSError(0, "the publisher must not run as root; name another user", user)
    for capability in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(target.pw_gid, target.pw_gid, target.pw_gid)
    os.setresuid(0, target.pw_uid, target.pw_uid)
    _set_capabilities(1 << _CAP_DAC_READ_SEARCH)


def forsake(parent: int) -> None:
    """Give up the rest: no root in any user id, no capabilities, no core dump, no tracer.

    The process dies with its parent, whose pid was `parent` when the process began. Raises
    OSError; the caller must then not go on.
    """
    user = os.geteuid()
    os.setresuid(user, user, user)
    _set_capabilities(0)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Changing user or capabilities resets these two (prctl(2)), so they come last.
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise OSError(0, "the parent process is gone")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise _failure(f"prctl {option}")


def _set_capabilities(allowed: int) -> None:
    """Permitted and effective = `allowed` (the first 32 capabilities), inheritable none."""
    data = (ctypes.c_uint32 * 6)(allowed, allowed, 0, 0, 0, 0)
    if _libc.capset(ctypes.byref(_CapHeader(_CAP_VERSION_3, 0)), data) != 0:
        raise _failure("capset")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read())
