"""What this kernel lets agentd do, found by trying: load, attach and fire tiny programs.

A version check says what a kernel should do; a trial says what it does (a kernel may list a
program type and refuse it, or accept an LSM program and never call it). Every trial fires on an
act of this thread alone (renaming itself to the same name, asking for its own process group) and
detaches within a millisecond; nothing stays loaded.

Three tiers, best first:

`enforce-lsm`      LSM programs run: the kernel refuses before the effect.
`enforce-fmodret`  LSM is not on, but `security_*` functions can be overridden.
`observe`          raw tracepoints, ring buffers and `bpf_send_signal`: MCP is held and judged
                   before the server sees it; files and execs while the process is stopped.
`none`             not even that.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from agentd.kernel import host
from agentd.kernel.tier import ENFORCE_FMODRET, ENFORCE_LSM, NONE, OBSERVE
from agentd.kernel.trials import SLOW_TRIALS, TRIALS, RefusedError, Trial

__all__ = ["ENFORCE_FMODRET", "ENFORCE_LSM", "NONE", "OBSERVE", "Capabilities", "Family", "probe"]

# What this version of agentd drives. On a kernel of a better tier it runs as `observe`.
DRIVEN_TIERS = (ENFORCE_LSM, ENFORCE_FMODRET, OBSERVE)

_REFUSED_TO_ROOT = (
    "EPERM in spite of the capabilities: this kernel refuses the kind (locked down or built so)"
)
_OBSERVE_NEEDS = ("raw_tracepoint", "ring_buffer", "send_signal", "probe_read", "bpf_loop")


@dataclass(slots=True, frozen=True)
class Family:
    """One thing the kernel can be asked for.

    `works`: it was tried and did what it should. `errno`: of the refusal, 0 if none.
    `why`: the refusal in words, or how it was shown to work. `mend`: what would help, or "".
    """

    name: str
    works: bool
    errno: int
    why: str
    mend: str


@dataclass(slots=True, frozen=True)
class Capabilities:
    """Result of `probe`: every family tried, and the tiers that follow from them.

    `tier` is the one agentd runs in here; `kernel_tier` the best that this kernel would allow.
    `cgroup2` is the mount point of the cgroup v2 hierarchy, or "".
    """

    tier: str
    kernel_tier: str
    families: dict[str, Family]
    cgroup2: str
    libbpf: str

    def works(self, name: str) -> bool:
        """Whether family `name` was tried and works."""
        family = self.families.get(name)
        return family is not None and family.works


def load_libbpf() -> ctypes.CDLL | None:
    """The system's libbpf 1.x (0.x as a last resort), or None where there is none."""
    for soname in ("libbpf.so.1", "libbpf.so.0"):
        try:
            return ctypes.CDLL(soname, use_errno=True)
        except OSError:
            continue
    return None


def libbpf_version(libbpf: ctypes.CDLL | None) -> str:
    """Version of libbpf such as "v1.1", or "" where there is none."""
    if libbpf is None:
        return ""
    function = getattr(libbpf, "libbpf_version_string", None)
    if function is None:
        return "before 0.6"
    function.restype = ctypes.c_char_p
    return bytes(function()).decode("ascii", "replace")


def explain(name: str, code: int, text: str, privileged: bool) -> tuple[str, str]:
    """(why, mend) for a refusal with errno `code` whose message is `text`."""
    if code == errno.EPERM and not privileged:
        return "EPERM: this process lacks CAP_BPF, CAP_PERFMON or CAP_NET_ADMIN", "run as root"
    if code == errno.EPERM and name in ("lsm", "fentry", "fmod_ret", "tp_btf"):
        return _REFUSED_TO_ROOT, "boot a distribution kernel without lockdown"
    if code == errno.ENOSYS:
        return "ENOSYS: no such system call here", "needs CONFIG_BPF_SYSCALL=y and a known machine"
    if code == errno.ENOENT:
        return f"ENOENT: {text}", "needs a kernel built with this hook"
    return f"errno {code}: {text}", ""


def choose_tier(works: Callable[[str], bool]) -> str:
    """The best tier that the working families allow."""
    if not all(works(name) for name in _OBSERVE_NEEDS):
        return NONE
    if works("lsm") and works("fentry"):
        return ENFORCE_LSM
    if works("fmod_ret") and works("fentry"):
        return ENFORCE_FMODRET
    return OBSERVE


_FAMILY_OF_TIER = {ENFORCE_LSM: "lsm", ENFORCE_FMODRET: "fmod_ret"}


def probe_enforcement(tier: str) -> str | None:
    """Why programs of an enforce tier do not run here, in words; None if they do (15 ms)."""
    name = _FAMILY_OF_TIER[tier]
    trial = Trial(host.cgroup2_mount(), load_libbpf())
    try:
        found = _try(name, dict(TRIALS)[name], trial, privileged=True)
    finally:
        if trial.counter >= 0:
            os.close(trial.counter)
    return None if found.works else found.why


def probe(thorough: bool = False) -> Capabilities:
    """Try every family (about 30 ms; `thorough` adds kprobes and uprobes and about 150 ms).

    Never raises for what the kernel refuses; needs no privilege, though without it everything
    is refused. Not to be called from two threads at a time.
    """
    libbpf = load_libbpf()
    trial = Trial(host.cgroup2_mount(), libbpf)
    privileged = host.effective_capabilities() >= {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"}
    families: dict[str, Family] = {}
    try:
        for name, attempt in TRIALS + (SLOW_TRIALS if thorough else ()):
            families[name] = _try(name, attempt, trial, privileged)
    finally:
        if trial.counter >= 0:
            os.close(trial.counter)
    kernel_tier = choose_tier(lambda name: families[name].works)
    tier = kernel_tier if kernel_tier in (*DRIVEN_TIERS, NONE) else DRIVEN_TIERS[-1]
    return Capabilities(tier, kernel_tier, families, trial.cgroup2, libbpf_version(libbpf))


def _try(name: str, attempt: Callable[[Trial], str], trial: Trial, privileged: bool) -> Family:
    try:
        trial.open_counter()
        return Family(name, works=True, errno=0, why=attempt(trial), mend="")
    except RefusedError as refusal:
        return Family(name, works=False, errno=0, why=refusal.why, mend=refusal.mend)
    except OSError as error:
        code = error.errno or 0
        why, mend = explain(name, code, error.strerror or str(error), privileged=privileged)
        return Family(name, works=False, errno=code, why=why, mend=mend)
