"""The least that deciding costs: one empty LSM program each on open, exec and connect."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd.kernel.libbpf import BpfObject
from tests.host.support.processes import wait_until
from tests.lab.support.hooks import hooked_functions

REPOSITORY = Path(__file__).parents[1]
UNHOOKED_S = 30.0


@contextmanager
def attached(directory: Path) -> Iterator[None]:
    """Compiles and attaches them; on leaving, waits until the kernel has let go of them."""
    compiled = directory / "empty.bpf.o"
    headers = REPOSITORY / "bpf" / "vmlinux"
    source = REPOSITORY / "bench" / "empty.bpf.c"
    flags = ["-O2", "-g", "-target", "bpf", "-D__TARGET_ARCH_x86", "-mcpu=v3"]
    subprocess.run(["clang", *flags, "-isystem", headers, "-c", source, "-o", compiled], check=True)
    before = hooked_functions()
    loaded = BpfObject("empty", compiled.read_bytes(), {})
    fds = [program.attach_target() for program in loaded.programs.values()]
    fds += [program.fd for program in loaded.programs.values()]
    loaded.close()
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
        wait_until(lambda: hooked_functions() == before, UNHOOKED_S, "the empty programs are off")
