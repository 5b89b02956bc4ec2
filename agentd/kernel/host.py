"""Plain facts about this host that say what eBPF can do here: read, never changed.

Sources are proc(5) and sysfs(5) files; whatever cannot be read is reported as absent, so that all
of this also runs without privilege.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# capability.h of Linux 6.18, in bit order.
# fmt: off
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on

# Capability -> what agentd uses it for.
NEEDED_CAPABILITIES = {
    "CAP_BPF": "load programs and maps",
    "CAP_PERFMON": "attach to tracepoints and read process memory from programs",
    "CAP_NET_ADMIN": "attach to cgroup connect hooks",
    "CAP_SYS_ADMIN": "signal held tasks from the kernel and make session cgroups",
    "CAP_SYS_PTRACE": "read and rewrite the message a held process has received",
    "CAP_KILL": "release and kill processes of other users",
    "CAP_DAC_READ_SEARCH": "resolve executables and files of other users",
}

CONFIG_HINTS = {
    "CONFIG_BPF_SYSCALL": "everything",
    "CONFIG_DEBUG_INFO_BTF": "programs compiled once for all kernels (CO-RE)",
    "CONFIG_BPF_JIT": "speed",
    "CONFIG_BPF_EVENTS": "tracepoint and probe programs",
    "CONFIG_FTRACE_SYSCALLS": "system call tracepoints",
    "CONFIG_CGROUP_BPF": "blocking connects in the kernel",
    "CONFIG_UPROBE_EVENTS": "MCP over TLS",
    "CONFIG_BPF_LSM": "the enforce-lsm tier",
    "CONFIG_SECURITY_LOCKDOWN_LSM": "if on and active, limits tracing",
}

_GZIP = 16 + zlib.MAX_WBITS
_MOUNT_KINDS = ("cgroup", "cgroup2", "tracefs", "bpf", "securityfs", "debugfs")


def read_text(path: str) -> str | None:
    """Contents of a small text file without trailing white space, or None if unreadable."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").rstrip()
    except OSError:
        return None


def mounts() -> dict[str, list[str]]:
    """Mount points by file system type, for the types eBPF work touches (/proc/self/mounts)."""
    found: dict[str, list[str]] = {}
    for line in (read_text("/proc/self/mounts") or "").splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] in _MOUNT_KINDS:
            point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            found.setdefault(fields[2], []).append(point)
    return found


def cgroup2_mount() -> str:
    """Mount point of cgroup v2, or "". In hybrid mode it lies beside the v1 controllers."""
    points = mounts().get("cgroup2", [])
    return points[0] if points else ""


def cgroup_mode(points: dict[str, list[str]]) -> str:
    """`unified`, `hybrid` (v1 and v2 mounted), `legacy` (v1 only) or `none`."""
    if points.get("cgroup2"):
        return "hybrid" if points.get("cgroup") else "unified"
    return "legacy" if points.get("cgroup") else "none"


def decode_capabilities(mask: int) -> set[str]:
    """Names (`CAP_...`) of the bits of a capability set; unknown bits as `CAP_<number>`."""
    names = set()
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            names.add(f"CAP_{CAPABILITIES[bit] if bit < len(CAPABILITIES) else bit}")
    return names


def effective_capabilities() -> set[str]:
    """Capabilities in force for this process (CapEff of /proc/self/status)."""
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return decode_capabilities(int(line.split()[1], 16))
    return set()


def kernel_config() -> tuple[str, dict[str, str]]:
    """(source file or "", {CONFIG_NAME: "y" | "m" | "n"}) for the options of CONFIG_HINTS."""
    return _configured(CONFIG_HINTS)


def _configured(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    release = os.uname().release
    candidates = (f"/boot/config-{release}", f"/lib/modules/{release}/config", "/proc/config.gz")
    for path in candidates:
        try:
            content = Path(path).read_bytes()
        except OSError:
            continue
        if path.endswith(".gz"):
            content = zlib.decompress(content, _GZIP)
        values = dict.fromkeys(names, "n")
        for line in content.decode("ascii", "replace").splitlines():
            name, _, value = line.partition("=")
            if name in values:
                values[name] = value
        return path, values
    return "", {}


def lsm_list(points: dict[str, list[str]]) -> tuple[list[str] | None, str]:
    """(active LSMs or None, where the list is from or why it cannot be read)."""
    if not points.get("securityfs"):
        return None, "securityfs is not mounted (mount -t securityfs none /sys/kernel/security)"
    path = f"{points['securityfs'][0]}/lsm"
    text = read_text(path)
    if text is None:
        return None, f"{path} cannot be read"
    return text.split(","), path


def lockdown(points: dict[str, list[str]]) -> str:
    """`none`, `integrity`, `confidentiality`, `absent` or `unknown (why)`."""
    if not points.get("securityfs"):
        return "unknown (securityfs is not mounted)"
    text = read_text(f"{points['securityfs'][0]}/lockdown")
    if text is None:
        return "absent"
    start, end = text.find("["), text.find("]")
    return text[start + 1 : end] if 0 <= start < end else text


FULL: Final = "full"
LAZY: Final = "lazy"
_PREEMPTION: Final = {
    "CONFIG_PREEMPT_NONE": "none",
    "CONFIG_PREEMPT_VOLUNTARY": "voluntary",
    "CONFIG_PREEMPT_LAZY": LAZY,
}


def preemption() -> str:
    """Where the kernel takes the CPU from a task that runs kernel code.

    `none` or `voluntary`: only where that code lets it. LAZY (Linux 6.13 and later): elsewhere only
    for a real-time task, or when it has gone on for long. FULL: anywhere; also if nothing says.
    """
    version = os.uname().version.split()
    if not any(word.startswith("PREEMPT") for word in version):
        return "voluntary"
    if "PREEMPT_DYNAMIC" not in version:
        return FULL
    chosen = read_text("/sys/kernel/debug/sched/preempt") or ""
    if "(" in chosen:
        return chosen[chosen.index("(") + 1 : chosen.index(")")]
    for word in (read_text("/proc/cmdline") or "").split():
        if word.startswith("preempt="):
            return word.removeprefix("preempt=")
    _, options = _configured(_PREEMPTION)
    return next((found for name, found in _PREEMPTION.items() if options.get(name) == "y"), FULL)
