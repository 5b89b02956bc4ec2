"""Exit codes of every `agentd` command, in one place (numbers above 2 are those of sysexits.h)."""

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    DENIED = 77
    CONFIG = 78


MEANINGS = {
    Exit.OK: "done, or the answer is yes",
    Exit.FAILED: "failed, or the answer is no (a failing rule test, an unknown hold)",
    Exit.USAGE: "the command line is wrong",
    Exit.UNAVAILABLE: "the daemon does not answer",
    Exit.DENIED: "you may not do that",
    Exit.CONFIG: "a configuration or rule file is wrong",
}

_CODES = "\n".join(f"  {int(code):2}  {meaning}" for code, meaning in MEANINGS.items())
EPILOG = f"""\b
Exit codes:
{_CODES}
`agentd run` ends as its command does; with 126 or 127 if that cannot be run or is not found."""
