"""The trials behind `tiers.probe`: one function a feature family, each load, attach, fire, detach.

A trial returns how it was shown to work, or raises OSError (the kernel's refusal) or
RefusedError. It fires on an act of this thread alone: renaming itself to the same name, asking for
its own process group. Nothing outlives the call.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

from agentd.kernel import bpfcall

_BTF_KIND_TYPEDEF, _BTF_KIND_FUNC = 8, 12
_LSM_HOOK = b"bpf_lsm_task_getpgid"
_FUNCTION = b"security_task_getpgid"
_TRACEPOINT = b"task_rename"
_TRACEPOINT_TYPE = b"btf_trace_task_rename"
_LSM_MEND = (
    "add bpf to the list in the kernel's lsm= parameter (see /sys/kernel/security/lsm for the "
    "present list) and boot again"
)


class RefusedError(Exception):
    """A trial found the feature absent for a reason that is no errno."""

    def __init__(self, why: str, mend: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.mend = mend


class Trial:
    """Shared state of one run of the trials: a counter map and the kernel's BTF ids."""

    def __init__(self, cgroup2: str, libbpf: ctypes.CDLL | None) -> None:
        self.cgroup2 = cgroup2
        self.counter = -1
        self.ids = _btf_ids(libbpf)

    def fire(self, prog_fd: int, attach: Callable[[int], int], act: Callable[[], object]) -> str:
        """Attach, act, detach; says that the program ran. Raises RefusedError if it did not."""
        try:
            before = bpfcall.read_counter(self.counter)
            link = attach(prog_fd)
            try:
                act()
            finally:
                os.close(link)
            if bpfcall.read_counter(self.counter) == before:
                raise RefusedError("loads and attaches, and the kernel never calls it")
        finally:
            os.close(prog_fd)
        return "loaded, attached and fired"

    def btf_id(self, name: bytes) -> int:
        """BTF id of a function or tracepoint of the running kernel."""
        found = self.ids.get(name, 0)
        if not found:
            raise RefusedError(
                f"the kernel's type information has no {name.decode()}",
                "needs a kernel with CONFIG_DEBUG_INFO_BTF=y and libbpf installed",
            )
        return found

    def open_counter(self) -> None:
        """Make the counter map if it is not there yet."""
        if self.counter < 0:
            self.counter = bpfcall.create_map(bpfcall.MAP_ARRAY, 4, 8, 1)


def _btf_ids(libbpf: ctypes.CDLL | None) -> dict[bytes, int]:
    """Ids of the three targets, by one parse of /sys/kernel/btf/vmlinux (about 10 ms)."""
    if libbpf is None:
        return {}
    load, find, free = (
        libbpf.btf__load_vmlinux_btf,
        libbpf.btf__find_by_name_kind,
        libbpf.btf__free,
    )
    load.restype = ctypes.c_void_p
    find.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
    find.restype = ctypes.c_int32
    free.argtypes = (ctypes.c_void_p,)
    types = load()
    if not types or types >= 2**64 - 4095:  # an ERR_PTR in libbpf before 1.0
        return {}
    wanted = (
        (_LSM_HOOK, _BTF_KIND_FUNC),
        (_FUNCTION, _BTF_KIND_FUNC),
        (_TRACEPOINT_TYPE, _BTF_KIND_TYPEDEF),
    )
    found = {name: max(0, find(types, name, kind)) for name, kind in wanted}
    free(types)
    return found


def _ask_own_process_group() -> None:
    os.getpgid(os.getpid())


def _load_only(kind: int, code: bytes, attach_type: int = 0) -> str:
    os.close(bpfcall.load_program(kind, code, attach_type))
    return "loaded"


def _ring_buffer(_: Trial) -> str:
    os.close(bpfcall.create_map(bpfcall.MAP_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE")))
    return "created"


def _raw_tracepoint(trial: Trial) -> str:
    program = bpfcall.load_program(bpfcall.PROG_RAW_TRACEPOINT, bpfcall.counting(trial.counter))
    return trial.fire(
        program,
        lambda fd: bpfcall.attach_raw_tracepoint(fd, _TRACEPOINT),
        bpfcall.rename_to_same_name,
    )


def _send_signal(_: Trial) -> str:
    return _load_only(bpfcall.PROG_RAW_TRACEPOINT, bpfcall.calling_send_signal())


def _probe_read(_: Trial) -> str:
    for helper in (bpfcall.HELPER_PROBE_READ_USER, bpfcall.HELPER_PROBE_READ_KERNEL):
        _load_only(bpfcall.PROG_RAW_TRACEPOINT, bpfcall.calling_probe_read(helper))
    return "user and kernel reads loaded"


def _loop(_: Trial) -> str:
    try:
        return _load_only(bpfcall.PROG_RAW_TRACEPOINT, bpfcall.calling_loop())
    except PermissionError as error:
        if error.errno == errno.EACCES:  # the helper is there and wants a function
            return "known to the verifier"
        raise
    except OSError as error:
        raise RefusedError(
            f"agentd's programs loop with it, and this kernel has none ({error.strerror})",
            "boot Linux 5.17 or later",
        ) from None


def _tracepoint(_: Trial) -> str:
    return _load_only(bpfcall.PROG_TRACEPOINT, bpfcall.returning(0))


def _cgroup_connect(trial: Trial) -> str:
    program = bpfcall.load_program(
        bpfcall.PROG_CGROUP_SOCK_ADDR, bpfcall.returning(1), bpfcall.ATTACH_CGROUP_INET4_CONNECT
    )
    try:
        if not trial.cgroup2:
            raise RefusedError("loads; no cgroup v2 is mounted", "mount -t cgroup2 none DIRECTORY")
        group = Path(trial.cgroup2, f"agentd-trial-{os.getpid()}")
        group.mkdir()
        try:
            group_fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.close(
                    bpfcall.attach_cgroup(program, group_fd, bpfcall.ATTACH_CGROUP_INET4_CONNECT)
                )
            finally:
                os.close(group_fd)
        finally:
            group.rmdir()
    finally:
        os.close(program)
    return "loaded, attached to an empty cgroup"


def _tracing(trial: Trial, attach_type: int, target: bytes, act: Callable[[], object]) -> str:
    program = bpfcall.load_program(
        bpfcall.PROG_LSM if attach_type == bpfcall.ATTACH_LSM_MAC else bpfcall.PROG_TRACING,
        bpfcall.counting(trial.counter),
        attach_type,
        trial.btf_id(target),
    )
    return trial.fire(program, lambda fd: bpfcall.attach_raw_tracepoint(fd, None), act)


def _tp_btf(trial: Trial) -> str:
    return _tracing(
        trial, bpfcall.ATTACH_TRACE_RAW_TP, _TRACEPOINT_TYPE, bpfcall.rename_to_same_name
    )


def _fentry(trial: Trial) -> str:
    return _tracing(trial, bpfcall.ATTACH_TRACE_FENTRY, _FUNCTION, _ask_own_process_group)


def _fmod_ret(trial: Trial) -> str:
    return _tracing(trial, bpfcall.ATTACH_MODIFY_RETURN, _FUNCTION, _ask_own_process_group)


def _lsm(trial: Trial) -> str:
    try:
        return _tracing(trial, bpfcall.ATTACH_LSM_MAC, _LSM_HOOK, _ask_own_process_group)
    except RefusedError as refusal:
        if refusal.mend:
            raise
        raise RefusedError(refusal.why, _LSM_MEND) from None


def _kprobe(trial: Trial) -> str:
    return _probe(trial, "kprobe", _FUNCTION, 0)


def _uprobe(trial: Trial) -> str:
    path, offset = bpfcall.function_offset("getpgid")
    return _probe(trial, "uprobe", os.fsencode(path), offset)


def _probe(trial: Trial, unit: str, target: bytes, offset: int) -> str:
    program = bpfcall.load_program(bpfcall.PROG_KPROBE, bpfcall.counting(trial.counter))

    def attach(prog_fd: int) -> int:
        try:
            link = bpfcall.open_probe(unit, target, offset)
        except FileNotFoundError:
            raise RefusedError(
                f"the kernel has no {unit}s", f"needs CONFIG_{unit.upper()}_EVENTS=y"
            ) from None
        try:
            bpfcall.bind_probe(link, prog_fd)
        except OSError:
            os.close(link)
            raise
        return link

    return trial.fire(program, attach, _ask_own_process_group)


TRIALS: tuple[tuple[str, Callable[[Trial], str]], ...] = (
    ("ring_buffer", _ring_buffer),
    ("raw_tracepoint", _raw_tracepoint),
    ("send_signal", _send_signal),
    ("probe_read", _probe_read),
    ("bpf_loop", _loop),
    ("cgroup_connect", _cgroup_connect),
    ("tp_btf", _tp_btf),
    ("fentry", _fentry),
    ("fmod_ret", _fmod_ret),
    ("lsm", _lsm),
)
# Families that agentd does not need at start, or that take long to detach (a uprobe: 0.1 s).
SLOW_TRIALS: tuple[tuple[str, Callable[[Trial], str]], ...] = (
    ("tracepoint", _tracepoint),
    ("kprobe", _kprobe),
    ("uprobe", _uprobe),
)
