"""The system calls that have a handler, here and in the sources of the programs."""

import re
from pathlib import Path

from agentd.kernel import syscalls

SOURCES = Path(__file__).parents[3] / "bpf"


def test_both_ways_handle_the_same_calls() -> None:
    declared: dict[str, list[str]] = {}
    for name in syscalls.OBJECTS:
        text = (SOURCES / f"{name}.bpf.c").read_text()
        for handler, call in re.findall(r"^HANDLES\((\w+), (\w+)\)$", text, re.MULTILINE):
            declared.setdefault(handler, []).append(call)
    called = syscalls.HANDLERS | syscalls.WRITE_HANDLERS
    assert {name: set(calls) for name, calls in declared.items()} == {
        name: set(calls) for name, calls in called.items()
    }


def test_every_call_has_a_number_on_one_machine_or_the_other() -> None:
    numbers = {name for machine in syscalls.SYSCALLS.values() for name in machine}
    for calls in (syscalls.HANDLERS | syscalls.WRITE_HANDLERS).values():
        assert set(calls) <= numbers
