"""The compiled BPF objects that agentd comes with."""

from pathlib import Path
from typing import Final

from agentd.errors import AgentdError

FOLDER: Final = Path(__file__).parent / "objects"


def compiled(name: str) -> bytes:
    """The ELF file of an object. Raises AgentdError if it has not been built."""
    path = FOLDER / f"{name}.bpf.o"
    if not path.is_file():
        raise AgentdError(f"{path} is missing; run `make objects` or reinstall agentd")
    return path.read_bytes()
