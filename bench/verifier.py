"""How far each BPF program is from the verifier's limit on the kernel that runs this.

    python -m bench.verifier

The verifier walks every path through a program and gives up after a million instructions
(BPF_COMPLEXITY_LIMIT_INSNS); what it has walked is in `struct bpf_prog_info` since Linux 5.16. The
programs of the enforce tiers are loaded as the kernel takes them, and are attached to nothing.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from agentd.errors import AgentdError
from agentd.kernel import sensor, syscalls
from agentd.kernel.compiled import compiled
from agentd.kernel.enforcer import FAMILIES
from agentd.kernel.libbpf import BpfObject, KernelError, KernelFunctions, Map, Program
from agentd.kernel.tier import ENFORCE_FMODRET, ENFORCE_LSM, OBSERVE
from agentd.kernel.tiers import probe_enforcement
from bench import report

LIMIT: Final = 1_000_000
_INFO_SIZE: Final = 232
_XLATED_LEN_AT: Final = 20
_VERIFIED_AT: Final = 216  # offsets in struct bpf_prog_info, linux/bpf.h


class Verified(NamedTuple):
    """One program: its instructions in the kernel, and how many the verifier has walked."""

    tier: str
    object: str
    program: str
    instructions: int
    walked: int


def verified() -> list[Verified]:
    """Load every object that this kernel takes. Raises AgentdError if it refuses one."""
    shared: dict[str, Map] = {}
    try:
        loaded = (BpfObject(name, compiled(name), shared) for name in sensor.OBJECTS)
        found = _rows(OBSERVE, loaded, shared)
        found += _rows(OBSERVE, syscalls.load_for_sys_exit(shared), shared)
        for way in (ENFORCE_LSM, ENFORCE_FMODRET):
            if probe_enforcement(way) is None:
                found += _enforcing(way, shared)
                break
    finally:
        for bpf_map in shared.values():
            bpf_map.close()
    return found


def _enforcing(way: str, shared: dict[str, Map]) -> list[Verified]:
    functions = KernelFunctions()
    exists = functions.__contains__
    retarget = way == ENFORCE_FMODRET
    loaded = (
        BpfObject(name, compiled(name), shared, retarget=retarget, exists=exists)
        for name in FAMILIES.values()
    )
    rows = _rows(way, loaded, shared)
    rows += _rows(way, syscalls.load_for_returns(shared, functions), shared)
    functions.close()
    return rows


def _rows(tier: str, objects: Iterable[BpfObject], shared: dict[str, Map]) -> list[Verified]:
    rows = []
    for loaded in objects:
        loaded.share_maps(shared)
        loaded.close()
        for program in loaded.programs.values():
            rows.append(Verified(tier, loaded.name, program.name, *_counts(program)))
            os.close(program.fd)
    return rows


def _counts(program: Program) -> tuple[int, int]:
    """Instructions, and instructions walked."""
    info = ctypes.create_string_buffer(_INFO_SIZE)
    size = ctypes.c_uint32(_INFO_SIZE)
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    if libbpf.bpf_obj_get_info_by_fd(program.fd, info, ctypes.byref(size)):
        raise KernelError(f"read about {program.name}", ctypes.get_errno())
    (length,) = struct.unpack_from("=I", info, _XLATED_LEN_AT)
    (walked,) = struct.unpack_from("=I", info, _VERIFIED_AT)
    return length // 8, walked


def show(rows: list[Verified]) -> None:
    """Print the table of this kernel, the most expensive programs first."""
    tiers = " and ".join(dict.fromkeys(row.tier for row in rows))
    report.table(
        f"Linux {platform.release()}, {tiers}: what the verifier walks",
        ("program", "object", "instructions", "walked", "of the limit"),
        [
            (
                row.program,
                row.object,
                f"{row.instructions:,}",
                f"{row.walked:,}",
                f"{row.walked / LIMIT:.1%}",
            )
            for row in sorted(rows, key=lambda row: -row.walked)
        ],
    )


if __name__ == "__main__":
    try:
        show(verified())
    except AgentdError as error:
        raise SystemExit(str(error)) from error
