"""The table of evasions in docs/: `python -m tests.adversarial.table` writes it anew."""

from collections.abc import Iterable
from pathlib import Path

from tests.adversarial.support.case import Case
from tests.adversarial.support.files import CASES as FILES
from tests.adversarial.support.sections import SECTIONS

DOCUMENT = Path(__file__).parents[2] / "docs" / "evasions.md"
_HEAD = """\
# Ways round a rule, and what becomes of them

Every row is a small program that really does the thing, run as a labelled process against rules
that deny it; what counts is the effect: whether the bytes were read, the program ran, the
connection came in. The words:

- `denied`: the call fails with EPERM (of /proc/PID/mem and its kin, EACCES), and has no effect.
- `held`: it waits for a person, who says no; nothing has happened by then.
- `killed`: the process dies before the effect.
- `detected`: it happens, and the record says so, with the rule; where the rule says so the process
  is killed after it.
- `gap`: it happens, and no rule has anything to say of it.

On the observe tier `detected` and `gap` are the least that becomes of it: some of it is a race.

The observe tier is tested on the machine that runs the tests (`tests/adversarial/test_files.py` and
`test_evasions.py`). There most ways are tried by a session whose rules only watch as well, and have
their effect: so a refusal means something. The enforce tier, with LSM programs, is tested in VMs,
on Debian's Linux 6.1, 6.12 and 7.2 (`tests/lab/test_evasions_files.py` and `test_evasions.py`).
What denies on the tier `enforce-fmodret` is in `tests/lab/test_fmodret.py`.
"""


def table() -> str:
    """The document."""
    sections = {"files": FILES, **SECTIONS}
    return _HEAD + "".join(_section(name, cases) for name, cases in sections.items())


def _section(name: str, cases: Iterable[Case]) -> str:
    lines = [f"\n## {name.capitalize()}\n\n| {name} | observe | enforce-lsm |\n|---|---|---|\n"]
    notes: dict[str, int] = {}
    for case in cases:
        mark = f" [{notes.setdefault(case.note, len(notes) + 1)}]" if case.note else ""
        lines.append(f"| {case.name}{mark} | {case.observe} | {case.enforce} |\n")
    lines += [f"\n{'[' + str(number) + ']'} {note}\n" for note, number in notes.items()]
    return "".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(table())
