"""Loads the LSM programs, family by family, by the best way that this kernel allows.

`enforce-lsm` first; where `bpf` is not among the active security modules the same programs override
the `security_*` functions (`enforce-fmodret`); a family that neither way loads stays with the
observe tier. What was found is in `families`, and why in `refusals`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentd.kernel.libbpf import BpfObject, KernelError, KernelFunctions, Map, Program, trim_heap
from agentd.kernel.tier import ENFORCE_FMODRET, ENFORCE_LSM, OBSERVE
from agentd.kernel.tiers import probe_enforcement

FAMILIES: Final = {
    "files": "lsm_files",
    "names": "lsm_names",
    "exec": "lsm_exec",
    "network": "lsm_network",
    "guard": "lsm_guard",
    "tree": "lsm_tree",
    "mcp": "lsm_mcp",
}
AUTO: Final = "auto"
_WAYS: Final = {
    AUTO: (ENFORCE_LSM, ENFORCE_FMODRET),
    ENFORCE_LSM: (ENFORCE_LSM,),
    ENFORCE_FMODRET: (ENFORCE_FMODRET,),
    OBSERVE: (),
}


class Enforcer:
    """The loaded LSM programs and their attachments; lives and dies with its process."""

    def __init__(self) -> None:
        self.families: dict[str, str] = dict.fromkeys(FAMILIES, OBSERVE)
        self.refusals: dict[str, str] = {}
        self.hooks: set[str] = set()
        """The LSM hooks that have a program."""
        self.missing: dict[str, list[str]] = {}
        """Family -> hooks that this kernel lacks, whose programs are left out."""
        self._programs: list[Program] = []
        self._links: list[int] = []

    @property
    def tier(self) -> str:
        """The weakest tier of all families: what may be said of the whole."""
        found = set(self.families.values())
        for tier in (OBSERVE, ENFORCE_FMODRET):
            if tier in found:
                return tier
        return ENFORCE_LSM

    def load(self, wanted: str, objects: Path, shared: dict[str, Map]) -> None:
        """Loads what the kernel takes. `wanted`: a tier, or AUTO; maps of `shared` are reused.

        New maps are added to `shared`. What the kernel refuses is not an error.
        """
        if not _WAYS[wanted]:
            return
        try:
            functions = KernelFunctions()
        except KernelError as error:
            self.refusals = dict.fromkeys(_WAYS[wanted], str(error))
            return
        for way in _WAYS[wanted]:
            why = probe_enforcement(way)
            if why is not None:
                self.refusals[way] = why
                continue
            for family, name in FAMILIES.items():
                if self.families[family] == OBSERVE:
                    path = objects / f"{name}.bpf.o"
                    self._load_family(family, path, way, shared, functions)
        functions.close()
        trim_heap()

    def _load_family(
        self,
        family: str,
        path: Path,
        way: str,
        shared: dict[str, Map],
        functions: KernelFunctions,
    ) -> None:
        try:
            loaded = BpfObject(
                family,
                path.read_bytes(),
                shared,
                retarget=way == ENFORCE_FMODRET,
                exists=functions.__contains__,
            )
        except KernelError as error:
            self.refusals[family] = str(error)
            return
        loaded.share_maps(shared)
        self._programs += loaded.programs.values()
        sections = [program.section for program in loaded.programs.values()]
        self.hooks |= {name.removeprefix("lsm/") for name in sections if name.startswith("lsm/")}
        if loaded.missing:
            self.missing[family] = loaded.missing
        loaded.close()
        self.families[family] = way
        self.refusals.pop(family, None)

    def attach(self) -> Iterator[tuple[str, int]]:
        """Puts the programs in force: each program's name and its attachment, as it is made.

        Nothing is decided before the policy is armed.
        """
        for program in self._programs:
            link = program.attach_target()
            self._links.append(link)
            yield program.name, link

    def close(self) -> None:
        """Detaches and unloads."""
        for fd in self._links:
            os.close(fd)
        for program in self._programs:
            os.close(program.fd)
        self._links.clear()
        self._programs.clear()
