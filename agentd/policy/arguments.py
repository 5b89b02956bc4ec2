"""Tool arguments: which values a path into them names, and whether a value matches a pattern.

A path is `a.b.c`, or a JSON pointer (RFC 6901: `/a/b~1c`) where keys have dots or slashes. The step
`*` is every item of a list or every value of an object, `**` is any number of steps.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from agentd.policy.globs import GlobError, NameGlobs, PathIndex, path_index, split_negated
from agentd.policy.paths import could_be_path, meant_by
from agentd.policy.regexes import Regex

PATH_STARTS = ("/", "~/", "**/")
EVERYWHERE = ("**",)
REMEMBERED = 1024  # characters
_INDEX = re.compile(r"[0-9]{1,6}")


def parse_steps(path: str) -> tuple[str, ...]:
    """`a.*.b` or `/a/*/b` -> ("a", "*", "b"). Raises GlobError."""
    if path.startswith("/"):
        pointer = path.removeprefix("/").split("/")
        steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer)
    else:
        steps = tuple(path.split("."))
        if "" in steps:
            raise GlobError(
                f"{path!r} has an empty step", "write 'a.b', or a JSON pointer '/a/b' for odd keys"
            )
    if steps.count("**") > 1:
        raise GlobError(f"{path!r} has '**' twice", "once is enough: it is any number of steps")
    return steps


def values_at(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """All values that the steps name; none where a step leads nowhere.

    A loop, not a recursion: hostile JSON may be nested as deep as its parser allows.
    """
    pending = [(value, 0)]
    while pending:
        value, position = pending.pop()
        if position == len(steps):
            yield value
            continue
        step = steps[position]
        if step == "**":
            pending.extend((inner, position) for inner in _children(value))
            pending.append((value, position + 1))
        elif step == "*":
            pending.extend((inner, position + 1) for inner in _children(value))
        elif isinstance(value, dict):
            if step in value:
                pending.append((value[step], position + 1))
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            pending.append((value[int(step)], position + 1))


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class PathPatterns:
    """Path globs with and without `!`: some positive one (if any) must match and no negative one.

    Whoever holds many of these looks their positive globs up together in one `PathIndex`.
    """

    __slots__ = ("_negative", "_positive", "positive")

    def __init__(self, globs: Iterable[str]) -> None:
        """Raise GlobError."""
        self.positive, negative = split_negated(globs)
        self._positive = path_index(self.positive)
        self._negative = path_index(negative)

    def match(self, path: str) -> bool:
        """Whether a path matches; it should be canonical."""
        return (self._positive is None or bool(self._positive.owners(path))) and self.allows(path)

    def allows(self, path: str) -> bool:
        """Whether no negative glob matches."""
        return self._negative is None or not self._negative.owners(path)


class ValuePattern:
    """What one argument must look like.

    Globs that begin with `/`, `~/` or `**/` are path globs: they are compared with the value as it
    is and with the path it means (`file://` URIs, `..`, `~`, `/proc/self/root`); a negated one only
    with the path it means. All other globs compare the whole text, where `*` is anything. Numbers,
    true, false and null are compared as JSON writes them; of a list, some scalar item
    must match.
    """

    __slots__ = ("_names", "_negative_names", "_negative_paths", "_paths", "_regex", "_some")

    def __init__(self, globs: Iterable[str], regex: str | None = None) -> None:
        """Raise GlobError or RegexError."""
        positive, negative = split_negated(globs)
        self._some = bool(positive)
        self._paths = _paths_of(positive)
        self._names = _names_of(positive)
        self._negative_paths = _paths_of(negative)
        self._negative_names = _names_of(negative)
        self._regex = None if regex is None else Regex(regex)

    def match(self, value: Any) -> bool:
        """Whether an argument's value matches."""
        if isinstance(value, str):
            return self._match_text(value)
        if isinstance(value, list):
            return any(
                self._match_text(item if isinstance(item, str) else json.dumps(item))
                for item in value
                if not isinstance(item, (dict, list))
            )
        return not isinstance(value, dict) and self._match_text(json.dumps(value))

    def _match_text(self, text: str) -> bool:
        if self._regex is not None and not self._regex.search(text):
            return False
        if self._some and not self._is_positive(text):
            return False
        if self._negative_names is not None and self._negative_names.match(text):
            return False
        if self._negative_paths is None or not could_be_path(text):
            return True
        return not self._negative_paths.owners(_meant(text))

    def _is_positive(self, text: str) -> bool:
        if self._names is not None and self._names.match(text):
            return True
        paths = self._paths
        if paths is None or not text or not could_be_path(text):
            return False
        meant = _meant(text)
        return bool(paths.owners(meant)) or (meant != text and bool(paths.owners(text)))


_recently_meant = lru_cache(maxsize=256)(meant_by)


def _meant(text: str) -> str:
    """`meant_by`, remembered for short texts: many rules ask about the same argument."""
    return _recently_meant(text) if len(text) <= REMEMBERED else meant_by(text)


def _paths_of(globs: list[str]) -> PathIndex | None:
    return path_index(glob for glob in globs if glob.startswith(PATH_STARTS))


def _names_of(globs: list[str]) -> NameGlobs | None:
    names = [glob for glob in globs if not glob.startswith(PATH_STARTS)]
    return NameGlobs(names) if names else None


class Arguments:
    """All the argument tests of one rule; each must hold for some value that its path names."""

    __slots__ = ("_tests",)

    def __init__(self, tests: dict[str, ValuePattern]) -> None:
        """Raise GlobError for a bad path."""
        self._tests = [(parse_steps(path), pattern) for path, pattern in tests.items()]

    def match(self, arguments: Any) -> bool:
        """Whether the arguments (plain JSON values) satisfy every test."""
        for steps, pattern in self._tests:
            if steps == EVERYWHERE:
                if not _any_scalar(arguments, pattern):
                    return False
            elif len(steps) == 1 and steps[0] != "*" and isinstance(arguments, dict):
                if steps[0] not in arguments or not pattern.match(arguments[steps[0]]):
                    return False
            elif not any(map(pattern.match, values_at(arguments, steps))):
                return False
        return True


def _any_scalar(value: Any, pattern: ValuePattern) -> bool:
    """Whether any scalar at any depth matches."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif pattern.match(value):
            return True
    return False
