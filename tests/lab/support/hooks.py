"""Which functions of the kernel are hooked."""

from pathlib import Path


def hooked_functions() -> set[str]:
    """What ftrace has on: BPF trampolines, those of LSM programs included."""
    lines = Path("/sys/kernel/tracing/enabled_functions").read_text(encoding="ascii").splitlines()
    return {line.split()[0] for line in lines}
