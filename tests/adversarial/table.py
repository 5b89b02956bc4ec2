"""The table of evasions in docs/: `python -m tests.adversarial.table` writes it anew."""

from pathlib import Path

from tests.adversarial.support.files import CASES

DOCUMENT = Path(__file__).parents[2] / "docs" / "evasions.md"
_HEAD = """\
# Ways round a rule, and what becomes of them

Every row is a small program that really does the thing, run as a labelled process against a rule
that denies a directory; what counts is the effect: whether the bytes were read. `denied`: the call
fails with EPERM. `killed`: the process dies before it has a byte. `gap`: it gets at them.

The observe tier is tested on the machine that runs the tests (`tests/adversarial/test_files.py`),
the enforce tier on Debian's Linux 6.1, 6.12 and 7.2 (`tests/lab/test_evasions_files.py`).

| files | observe | enforce-lsm |
|---|---|---|
"""


def table() -> str:
    """The document."""
    rows = [f"| {case.name} | {case.observe} | {case.enforce} |\n" for case in CASES]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    DOCUMENT.write_text(table())
