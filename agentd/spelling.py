"""The mend for a misspelt name."""

import difflib


def guess(name: str, known: list[str]) -> str | None:
    """Which of the known names was probably meant, if any looks like it."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else None


def nearest(name: str, known: list[str]) -> str:
    """Which of the known names was probably meant, or else all of them."""
    found = guess(name, known)
    if found is not None:
        return found
    return "known are " + ", ".join(sorted(known)) if known else "remove it"
