"""Hatchling build hook: compile the BPF objects before the wheel is put together.

The Makefile knows the compiler flags and the dependencies; this hook only runs its `objects`
target, for wheels and for editable installs alike, so that an object is never compiled by two
recipes.
"""

import os
import platform
import subprocess
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileObjects(BuildHookInterface):
    """Put `agentd/kernel/objects/*.bpf.o` in place."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run `make objects`; a compiler error fails the build with make's own message.

        The programs read registers as x86-64 lays them out, so the wheel says which machine it
        is for; its Python is the same for every version.
        """
        if version == "standard":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS"}}
        subprocess.run(
            ["make", "--no-print-directory", "objects"],
            cwd=self.root,
            env=environment,
            check=True,
        )
