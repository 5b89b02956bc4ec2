"""What the daemon's own processes import: they stay small and start fast."""

import subprocess

import pytest

from agentd.daemon import spawn

HEAVY = ("asyncio", "click", "importlib.metadata", "pydantic", "pydantic_core", "yaml")
PROGRAM = "import sys; __import__(sys.argv[1]); print(*sorted(sys.modules))"


def imported_with(module: str) -> set[str]:
    """All modules that a bare interpreter has after it has imported one."""
    interpreter = spawn.command("unused")[:-2]
    output = subprocess.run(
        [*interpreter, "-c", PROGRAM, module],
        env=spawn.environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return set(output.split())


@pytest.mark.parametrize(
    "module", ["agentd.daemon.engine", "agentd.daemon.loop", "agentd.cli.supervise"]
)
def test_engine_and_supervisor_import_nothing_heavy(module: str) -> None:
    assert imported_with(module).isdisjoint(HEAVY)


def test_the_engine_starts_its_child_before_it_imports_the_rest() -> None:
    modules = imported_with("agentd.daemon.engine")
    assert not any(name.startswith(("agentd.policy", "agentd.kernel")) for name in modules)


def test_what_reads_the_rules_is_the_one_with_pydantic() -> None:
    assert {"pydantic", "yaml"} <= imported_with("agentd.daemon.preload")
