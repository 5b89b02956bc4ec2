r"""Regular expressions whose time is linear in the text, whoever wrote the text.

Python's `re` backtracks: hostile arguments can make it run for hours. pydantic brings the Rust
crate `regex`, which cannot; it has no look-around and no back-references, and `\z` for the end.
"""

from typing import Any, Protocol, cast

from agentd.policy import extensions


class _Validator(Protocol):
    def isinstance_python(self, value: object) -> bool: ...


class _PydanticCore(Protocol):
    SchemaError: type[Exception]

    def SchemaValidator(self, schema: dict[str, Any]) -> _Validator: ...  # noqa: N802 (its name)


_core = cast("_PydanticCore", extensions.load("pydantic_core", "_pydantic_core"))


class RegexError(ValueError):
    """A pattern that the engine does not accept; `mend` says where to look."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


class Regex:
    """A compiled pattern; `.` also matches a line end if `dot_all`."""

    __slots__ = ("_found",)

    def __init__(self, pattern: str, *, dot_all: bool = True) -> None:
        """Raise RegexError."""
        schema = {
            "type": "str",
            "pattern": f"(?s){pattern}" if dot_all else pattern,
            "strict": True,
            "regex_engine": "rust-regex",
        }
        try:
            self._found = _core.SchemaValidator(schema).isinstance_python
        except _core.SchemaError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = next((line for line in lines if line.startswith("error:")), lines[-1])
            raise RegexError(
                f"{pattern!r} is not a regular expression: {why.removeprefix('error: ')}",
                "see the syntax of the Rust crate 'regex': no look-around, no back-references",
            ) from error

    def search(self, text: str) -> bool:
        """Whether the pattern is found anywhere in the text."""
        if self._found(text):
            return True
        if text.isascii():
            return False
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes that are not UTF-8, which the engine refuses
            return self._found(text.encode(errors="replace").decode())
        return False
