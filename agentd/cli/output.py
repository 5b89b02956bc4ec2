"""What the commands share for printing: JSON, tables, ages, the `--json` option, the context."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

import agentd
from agentd import paths
from agentd.cli.client import ControlClient
from agentd.cli.exits import Exit
from agentd.errors import AgentdError
from agentd.kernel import host
from agentd.ui.text import shorten

if TYPE_CHECKING:
    from agentd.config import Config

SHIPPED_RULES = Path(agentd.__file__).parent / "shipped_rules"
_Function = TypeVar("_Function", bound=Callable[..., object])


class CommandError(AgentdError):
    """An expected failure of a command: what, why, what to do, in one line."""

    def __init__(self, message: str, exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True, frozen=True)
class Settings:
    """The options that stand before the sub-command."""

    config: str | None = None
    socket: str | None = None

    def load_config(self) -> "Config":
        """The daemon's configuration. Raises ConfigErrors; costs an import of pydantic."""
        module = importlib.import_module("agentd.config")
        loaded: Config = module.load(self.config)
        return loaded

    def rule_sources(self) -> list[Path]:
        """Where the daemon reads rules: what is shipped, then the configuration's directories."""
        return [SHIPPED_RULES, *self.load_config().rules]

    def socket_path(self) -> str:
        """The control socket: `--socket`, else the configuration's, else the default.

        Commands must start fast, so the configuration is parsed only where it could say otherwise:
        where it was named, or mentions `runtime_dir`. One that may not be read says nothing.
        """
        if self.socket:
            return self.socket
        text = host.read_text(self.config or str(paths.CONFIG_FILE)) or ""
        if "runtime_dir" in text:
            return str(self.load_config().control_socket)
        return str(paths.RUNTIME_DIR / paths.CONTROL_SOCKET)

    def client(self, timeout_s: float = 10.0, retry_s: float = 3.0) -> ControlClient:
        """A client of the daemon that these settings name."""
        return ControlClient(self.socket_path(), timeout_s, retry_s)


def json_option(function: _Function) -> _Function:
    """Add `--json` (parameter `as_json`) to a command."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    return option(function)


def print_json(value: object) -> None:
    """Print a JSON document, indented, in ASCII (so that no control character gets through)."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: object) -> None:
    """Print a JSON value on one line and flush, for streams."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], room: int = 60) -> None:
    """Print rows under a header, columns as wide as their content up to `room`, cells cleaned."""
    cells = [[shorten(cell, room) for cell in row] for row in rows]
    table = [list(header), *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def age(seconds: object) -> str:
    """Seconds as `12s`, `3m04s`, `5h07m`, `2d03h`; "" for what is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # noqa: PLR0124
        return ""
    whole = int(max(0, min(seconds, 1e12)))
    for size, unit, part_size, part in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part_size:02d}{part}"
    return f"{whole}s"


def wants_colour() -> bool:
    """Whether standard output is a terminal that should be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def objects(value: object) -> list[dict[str, object]]:
    """The JSON objects in a JSON array; anything else is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def fail(message: str, code: Exit = Exit.FAILED) -> NoReturn:
    """End the command with one line on standard error."""
    raise CommandError(message, code)
