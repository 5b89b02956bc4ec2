"""Globs over paths and names, and an index that finds the globs a path matches in a few lookups.

Path globs: `*` and `?` stay inside one component, `**` is any number of components, `[a-z]` and
`[!a-z]` are classes, `{a,b}` are alternatives, a leading `~` is every home directory, a backslash
takes the next character as it is. A leading dot needs no special pattern. Name globs (tools,
servers, arguments): the same, but `*` matches anything and there are no components.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

MAX_ALTERNATIVES = 256
KEY_BYTES = 63  # the kernel's name filter compares at most this many
SUFFIX_BYTES = 15  # and of suffixes this many
PREFIX_MIN, PREFIX_MAX = 3, 8  # the kernel looks up prefixes of exactly these lengths

KeyKind = Literal["base", "suffix", "dir", "prefix"]
Tokens = tuple[str | None, ...]  # literal runs, and None where a wildcard is

# Parts that many ordinary paths have: the kernel's filter would let far too much through.
# fmt: off
COMMON_SUFFIXES = frozenset([
    ".c", ".conf", ".cpp", ".css", ".go", ".h", ".html", ".js", ".json", ".map", ".md", ".mjs",
    ".py", ".pyc", ".rs", ".sh", ".so", ".toml", ".ts", ".txt", ".xml", ".yaml", ".yml",
])
COMMON_DIRS = frozenset([
    ".cache", ".config", ".local", "bin", "cache", "config", "etc", "home", "lib", "lib64", "opt",
    "proc", "root", "run", "sbin", "share", "sys", "tmp", "usr", "var",
])
# fmt: on
# Homes in /etc/passwd that are system directories: `~/**` must not come to mean `/usr/**`.
NOT_HOMES = re.compile(r"/(?:|bin|sbin|dev|etc|proc|sys|run|usr|var|usr/s?bin|nonexistent|home)/?")


class GlobError(ValueError):
    """A glob that cannot mean anything; `mend` says what to write instead."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


class Key(NamedTuple):
    """A literal part that every path matched by a glob has.

    base: the whole last component. suffix: the last component from its last dot on. dir: a
    component before the last. prefix: how the last component begins (3 to 8 bytes of UTF-8).
    """

    kind: KeyKind
    text: bytes


@lru_cache(maxsize=1)
def home_directories(passwd: Path = Path("/etc/passwd")) -> tuple[str, ...]:
    """Homes named in /etc/passwd that lie outside /root and /home; read once."""
    try:
        lines = passwd.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    homes = {fields[5].rstrip("/") for line in lines if len(fields := line.split(":")) > 6}
    usual = re.compile(r"/root|/home/[^/]+")
    return tuple(
        sorted(
            home
            for home in homes
            if home.startswith("/") and not NOT_HOMES.fullmatch(home) and not usual.fullmatch(home)
        )
    )


def expand_braces(glob: str) -> list[str]:
    """`a{b,c}` -> `ab`, `ac`; braces nest. Raises GlobError."""
    opening = _find(glob, "{", 0)
    if opening < 0:
        return [glob]
    depth, start, parts, position = 0, opening + 1, [], opening
    while position < len(glob):
        character = glob[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "," and depth == 1:
            parts.append(glob[start:position])
            start = position + 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                break
        position += 1
    else:
        raise GlobError(f"{glob!r} has a '{{' without '}}'", "close it, or write '\\{' to mean it")
    parts.append(glob[start:position])
    head, tail = glob[:opening], glob[position + 1 :]
    expanded = [more for part in parts for more in expand_braces(head + part + tail)]
    if len(expanded) > MAX_ALTERNATIVES:
        raise GlobError(
            f"{glob!r} has over {MAX_ALTERNATIVES} alternatives", "split it into several globs"
        )
    return expanded


def _find(text: str, wanted: str, start: int) -> int:
    """Where an unescaped character is, or -1."""
    while start < len(text):
        if text[start] == "\\":
            start += 1
        elif text[start] == wanted:
            return start
        start += 1
    return -1


def _class(glob: str, start: int) -> tuple[str, int]:
    """The regular expression of the class that opens at `start`, and where it ends."""
    end = start + 1
    if glob[end : end + 1] in {"!", "^"}:
        end += 1
    first = end
    end = glob.find("]", end + 1)
    if end < 0:
        raise GlobError(f"{glob!r} has a '[' without ']'", "close it, or write '\\[' to mean it")
    body = re.sub(r"([\\\[\]&~|^])", r"\\\1", glob[first:end]).replace("--", r"\-\-")
    negated = "^" if first > start + 1 else ""
    expression = f"[{negated}{body}]"
    try:
        re.compile(expression)
    except re.error as error:
        raise GlobError(f"{glob!r}: bad class: {error}", "write it as '[a-z]'") from error
    return expression, end + 1


def _translate(glob: str, star: str, one: str) -> tuple[str, Tokens]:
    """A piece without `**` -> its regular expression and its tokens."""
    expression = [""]  # what is between the stars
    tokens: list[str | None] = []
    position = 0
    while position < len(glob):
        character = glob[position]
        position += 1
        if character in "*?[":
            if character == "[":
                piece, position = _class(glob, position - 1)
                # a class never matches the separator, whatever it contains
                expression[-1] += piece if one == "." else f"(?!/){piece}"
            elif character == "*":
                expression.append("")
            else:
                expression[-1] += one
            tokens.append(None)
            continue
        if character == "\\":
            if position == len(glob):
                raise GlobError(f"{glob!r} ends in a backslash", "write '\\\\' to mean one")
            character = glob[position]
            position += 1
        expression[-1] += re.escape(character)
        if tokens and tokens[-1] is not None:
            tokens[-1] += character
        else:
            tokens.append(character)
    return _joined(expression, star, f"{star}?"), tuple(tokens)


def _joined(pieces: list[str], gap: str, least_gap: str) -> str:
    """The regular expression of pieces with a gap between each two of them.

    Each piece but the last is taken where it is found first, for good: what follows it has the most
    room then. Without that a text made for it takes time that grows with a power of its length.
    """
    first, *between = pieces
    if not between:
        return first
    last = between.pop()
    return first + "".join(f"(?>{least_gap}{piece})" for piece in between if piece) + gap + last


class PathGlob:
    """One path glob without braces. The regular expression is compiled at its first use."""

    __slots__ = ("_fullmatch", "_source", "key", "text")

    def __init__(self, text: str, homes: tuple[str, ...] | None = None) -> None:
        """Raise GlobError for a glob that no path can match."""
        self.text = text
        if not text.startswith(("/", "~/", "**/")) and text not in {"~", "**"}:
            raise GlobError(
                f"{text!r} is not a pattern for a whole path",
                f"write '/...', '~/...' or '**/{text.lstrip('*/') or '*'}'",
            )
        if text.endswith("/"):
            raise GlobError(f"{text!r} ends in a slash", f"write '{text}**' for what is below it")
        components = text.split("/")
        source = [""]  # what is between the `**`
        literals: list[Tokens] = []
        for index, component in enumerate(components):
            last = index == len(components) - 1
            if component == "**":
                if last:
                    source[-1] += ".+"
                else:
                    source.append("")
                literals.append((None,))
            elif index == 0 and component == "~":
                others = home_directories() if homes is None else homes
                usual = "/root|/home/[^/]+"
                source[-1] += f"(?:{'|'.join((usual, *map(re.escape, others)))})"
                source[-1] += "" if last else "/"
                literals.append((None,))
            elif "**" in component:
                raise GlobError(f"{text!r}: '**' is a whole component", "write '/**/' or one '*'")
            else:
                expression, tokens = _translate(component, "[^/]*", "[^/]")
                source[-1] += expression if last else expression + "/"
                literals.append(tokens)
        self._source = _joined(source, "(?:.*/)?", "(?:.*?/)??")
        self._fullmatch: Callable[[str], object] | None = None
        self.key = _best_key(literals)

    def matches(self, path: str) -> bool:
        """Whether the whole path matches."""
        if self._fullmatch is None:
            self._fullmatch = re.compile(self._source, re.DOTALL).fullmatch
        return self._fullmatch(path) is not None


@lru_cache(maxsize=4096)
def path_glob(text: str) -> PathGlob:
    """The glob, shared by all who ask: one is in several indexes, and again after a reload."""
    return PathGlob(text)


def _best_key(components: list[Tokens]) -> Key | None:
    """The literal part that the fewest other paths have; None if the glob has none."""
    last = components[-1]
    first_run = (last[0] or "").encode(errors="replace") if last else b""
    last_run = (last[-1] or "") if last else ""
    ranked: list[tuple[int, Key]] = []
    if len(last) == 1 and last[0]:
        ranked.append((0, Key("base", first_run)))
    if "." in last_run:
        suffix = last_run[last_run.rindex(".") :]
        rank = 4 if suffix in COMMON_SUFFIXES else 1
        if len(suffix.encode(errors="replace")) <= SUFFIX_BYTES:
            ranked.append((rank, Key("suffix", suffix.encode(errors="replace"))))
    if len(first_run) >= PREFIX_MIN:
        rank = 2 if len(first_run) > PREFIX_MIN + 2 else 5
        ranked.append((rank, Key("prefix", first_run[:PREFIX_MAX])))
    for tokens in reversed(components[:-1]):
        if len(tokens) == 1 and tokens[0]:
            rank = 6 if tokens[0] in COMMON_DIRS else 3
            ranked.append((rank, Key("dir", tokens[0].encode(errors="replace"))))
    fitting = [entry for entry in ranked if len(entry[1].text) <= KEY_BYTES]
    best = min(fitting, key=lambda entry: (entry[0], -len(entry[1].text)), default=None)
    return best[1] if best else None


class PathIndex:
    """Many path globs, each with an owner (a small number); finds the owners of a path.

    A lookup costs a few dictionary probes (about 2 us); only globs whose key the path has are
    compared. The keys are the ones that `compiler.py` gives to the kernel, so the two agree.
    """

    __slots__ = ("_base", "_dir", "_lengths", "_prefix", "_rest", "_suffix", "globs")

    def __init__(self) -> None:
        self.globs: list[PathGlob] = []
        self._base: dict[str, list[tuple[PathGlob, int]]] = {}
        self._suffix: dict[str, list[tuple[PathGlob, int]]] = {}
        self._dir: dict[str, list[tuple[PathGlob, int]]] = {}
        self._prefix: dict[bytes, list[tuple[PathGlob, int]]] = {}
        self._lengths: tuple[int, ...] = ()
        self._rest: list[tuple[PathGlob, int]] = []

    def add(self, glob: str, owner: int = 0) -> None:
        """Add one glob (braces allowed). Raises GlobError."""
        for text in expand_braces(glob):
            compiled = path_glob(text)
            self.globs.append(compiled)
            key = compiled.key
            if key is None:
                self._rest.append((compiled, owner))
            elif key.kind == "prefix":
                self._prefix.setdefault(key.text, []).append((compiled, owner))
                self._lengths = tuple(sorted({*self._lengths, len(key.text)}))
            else:
                table = {"base": self._base, "suffix": self._suffix, "dir": self._dir}[key.kind]
                name = key.text.decode(errors="replace")
                table.setdefault(name, []).append((compiled, owner))

    def owners(self, path: str) -> set[int]:
        """The owners of all globs that match the path."""
        found: set[int] = set()
        base = path[path.rfind("/") + 1 :]
        entries = self._base.get(base)
        if entries:
            found.update(owner for glob, owner in entries if glob.matches(path))
        if self._suffix:
            dot = base.rfind(".")
            entries = self._suffix.get(base[dot:]) if dot >= 0 else None
            if entries:
                found.update(owner for glob, owner in entries if glob.matches(path))
        if self._lengths:
            start = base[:PREFIX_MAX].encode(errors="replace")
            for length in self._lengths:
                entries = self._prefix.get(start[:length])
                if entries:
                    found.update(owner for glob, owner in entries if glob.matches(path))
        if self._dir:
            for name in self._dir.keys() & path.split("/"):
                found.update(owner for glob, owner in self._dir[name] if glob.matches(path))
        if self._rest:
            found.update(owner for glob, owner in self._rest if glob.matches(path))
        return found


def path_index(globs: Iterable[str]) -> PathIndex | None:
    """An index of these globs with one owner, or None if there are none. Raises GlobError."""
    index = PathIndex()
    for glob in globs:
        index.add(glob)
    return index if index.globs else None


class NameGlobs:
    """Globs over names; a leading `!` negates.

    A name matches if some glob without `!` matches it (or there is none), and no glob with `!`.
    """

    __slots__ = ("_exact", "_negative", "_pattern", "_positive")

    def __init__(self, globs: Iterable[str]) -> None:
        """Raise GlobError."""
        positive, negative = split_negated(globs)
        expanded = [text for glob in positive for text in expand_braces(glob)]
        translated = [_translate(text, ".*", ".") for text in expanded]
        self._exact = frozenset(
            tokens[0] or "" if tokens else ""
            for _, tokens in translated
            if len(tokens) == 0 or (len(tokens) == 1 and tokens[0] is not None)
        )
        self._positive = bool(positive)
        self._pattern = _any_of(source for source, tokens in translated if None in tokens)
        self._negative = NameGlobs(negative) if negative else None

    def match(self, name: str) -> bool:
        """Whether the name matches."""
        if (
            self._positive
            and name not in self._exact
            and (self._pattern is None or self._pattern(name) is None)
        ):
            return False
        return self._negative is None or not self._negative.match(name)


def _any_of(sources: Iterable[str]) -> Callable[[str], object] | None:
    alternatives = list(sources)
    return re.compile("|".join(alternatives), re.DOTALL).fullmatch if alternatives else None


def split_negated(globs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Globs without a leading `!`, and those with one, without it."""
    positive: list[str] = []
    negative: list[str] = []
    for glob in globs:
        if not glob.removeprefix("!"):
            raise GlobError("an empty glob", "write a pattern, or '*' for anything")
        (negative if glob.startswith("!") else positive).append(glob.removeprefix("!"))
    return positive, negative
