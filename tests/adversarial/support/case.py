"""What a way round a rule is: a small program, and what is to become of it on each tier."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adversarial.support.arena import Arena

WORDS: Final = ("denied", "held", "killed", "detected", "gap")
UNTRIED: Final = "-"
"""It cannot be tried there; the note says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way. `source` is an act of a puppet; `observe` and `enforce` are of WORDS or UNTRIED.

    `happened` says whether it has had its effect; where there is none, the act itself makes the
    file `{effect}` when it has. `before` prepares the arena for it. `asks`: a person is asked about
    it, and denies. `is_free` is False where it has no effect in a session without rules either,
    because agentd itself refuses it.
    """

    name: str
    source: str
    observe: str = "killed"
    enforce: str = "denied"
    note: str = ""
    happened: "Callable[[Arena], bool] | None" = None
    before: "Callable[[Arena], None] | None" = None
    asks: bool = False
    is_free: bool = True


AT_LEAST: Final = {
    "detected": {"detected", "killed", "denied"},
    "gap": {"gap", "detected", "killed", "denied"},
}
"""On the observe tier some of what happens is a race: what is as good as a word, or better."""
