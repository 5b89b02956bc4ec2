"""What agentd raises on purpose; everything else is a bug."""

from pathlib import Path


class AgentdError(Exception):
    """Base of every error that agentd raises on purpose."""


class ConfigError(AgentdError):
    """One problem in a file that a person wrote: where it is, what is wrong, how to mend it.

    `line` counts from 1; 0 means the file as a whole (missing, unreadable).
    """

    def __init__(self, file: Path | str, line: int, message: str, mend: str = "") -> None:
        super().__init__(file, line, message, mend)
        self.file = Path(file)
        self.line = line
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.message}" + (f"; {self.mend}" if self.mend else "")


class ConfigErrors(AgentdError):  # noqa: N818 (the plural of ConfigError)
    """All problems found while a set of files was read, in the order of the files and lines."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__(errors)
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)
