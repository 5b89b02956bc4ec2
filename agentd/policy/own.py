"""What agentd protects of itself: rules that no file contains and no administrator is bound by.

They bind every labelled task whatever its workload's posture, and are reported as `agentd-self`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SELF: Final = "agentd-self"
REASON: Final = "agentd protects itself; agents may not touch it."

_SPECIAL = re.compile(r"([\\*?\[\]{}!,])")


def own_globs(places: Iterable[Path]) -> tuple[str, ...]:
    """The globs of files and directories, with what is below them. Paths are resolved."""
    return tuple(
        glob for place in _distinct(places) for glob in (_literal(place), f"{_literal(place)}/**")
    )


def way_globs(places: Iterable[Path]) -> tuple[str, ...]:
    """The globs of the directories above, which nobody may rename or put a mount over."""
    above = {parent for place in _distinct(places) for parent in place.parents}
    return tuple(_literal(place) for place in sorted(above) if place != place.parent)


def _distinct(places: Iterable[Path]) -> list[Path]:
    """Without those that lie below others."""
    found: list[Path] = []
    for place in sorted(set(places)):
        if not any(place.is_relative_to(known) for known in found):
            found.append(place)
    return found


def _literal(path: Path) -> str:
    return _SPECIAL.sub(r"\\\1", str(path))
