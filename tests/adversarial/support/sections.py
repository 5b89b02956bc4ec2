"""The classes of ways, in the order of the table in docs/."""

from typing import Final

from tests.adversarial.support import arguments, blinding, execution, network, tree
from tests.adversarial.support.case import Case

SECTIONS: Final[dict[str, tuple[Case, ...]]] = {
    "execution": execution.CASES,
    "arguments": arguments.CASES,
    "network": network.CASES,
    "tree": tree.CASES,
    "blinding": blinding.CASES,
}
"""Those that are tried in the arena, on both tiers, beside those on files (`files.py`)."""
