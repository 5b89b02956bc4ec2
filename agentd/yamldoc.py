"""YAML documents that remember their lines, so that every problem is reported where it is written.

Scalars follow the YAML 1.2 core schema (YAML.org, 1.2.2, section 10.3): `on`, `yes` and `12:30` are
strings, not a boolean and a number. Only plain data can come out: no tags, no Python objects.
"""

import re
import stat
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from agentd.errors import ConfigError, ConfigErrors
from agentd.spelling import nearest

Location = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 4 << 20
MAX_NODES = 200_000
MAX_DEPTH = 40

_NULL, _BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_STR, _MAP = "tag:yaml.org,2002:str", "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"

if TYPE_CHECKING:
    from yaml import SafeLoader as _Base
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """The safe loader (libyaml's where PyYAML was built with it) with the 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    (_NULL, r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        _FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file: plain data, and for each place in it the line (from 1) where it starts."""

    file: Path
    data: Any
    lines: dict[Location, int]

    def line(self, location: Location) -> int:
        """The line of the place, or of the nearest place around it that is in the file."""
        for end in range(len(location), -1, -1):
            found = self.lines.get(location[:end])
            if found is not None:
                return found
        return 1

    def error(self, location: Location, message: str, mend: str = "") -> ConfigError:
        """A problem at that place of this file."""
        return ConfigError(self.file, self.line(location), message, mend)


class _Builder:
    """Nodes -> plain data, lines and problems."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[Location, int] = {}
        self.problems: list[ConfigError] = []
        self._left = MAX_NODES

    def value(self, node: yaml.Node, at: Location) -> Any:
        self._left -= 1
        line = node.start_mark.line + 1
        self.lines.setdefault(at, line)
        if self._left < 0 or len(at) > MAX_DEPTH:
            raise ConfigErrors(
                [
                    ConfigError(
                        self.file,
                        line,
                        "the document is nested too deeply or has too many values",
                        "split the file, and do not let an alias contain itself",
                    )
                ]
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        self._unknown_tag(node, line)
        return None

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(
                    ConfigError(self.file, line, "a key must be a plain word", "quote the key")
                )
                continue
            key = str(key_node.value)
            place = (*at, key)
            if key in result:
                first = self.lines[place]
                message = f"{key!r} is given twice, first on line {first}"
                self.problems.append(ConfigError(self.file, line, message, "remove one of them"))
                continue
            self.lines[place] = line
            result[key] = self.value(value_node, place)
        return result

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        text = str(node.value)
        try:
            match node.tag:
                case "tag:yaml.org,2002:null":
                    return None
                case "tag:yaml.org,2002:bool" if text.lower() in {"true", "false"}:
                    return text.lower() == "true"
                case "tag:yaml.org,2002:int":
                    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
                case "tag:yaml.org,2002:float":
                    return float(text)
                case "tag:yaml.org,2002:str":
                    pass
                case _:
                    self._unknown_tag(node, line)
        except ValueError:
            message = f"{text!r} is not a number"
            self.problems.append(ConfigError(self.file, line, message, "quote it to mean the text"))
        return text

    def _unknown_tag(self, node: yaml.Node, line: int) -> None:
        message = f"the tag {node.tag!r} is not supported"
        self.problems.append(ConfigError(self.file, line, message, "write plain YAML values"))


def read(file: Path, *, only_regular: bool = False) -> Document:
    """The document in a file; an empty file gives an empty mapping. Raises ConfigErrors.

    `only_regular`: a pipe, device or socket is a problem; reading one may wait for ever.
    """
    try:
        if only_regular and not stat.S_ISREG(file.stat().st_mode):
            mend = "remove it, or put a file of YAML in its place"
            raise ConfigErrors([ConfigError(file, 0, "not a regular file", mend)])
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigErrors(
                [ConfigError(file, 0, f"the file is over {MAX_BYTES >> 20} MiB", "split it")]
            )
        text = data.decode("utf-8")
    except OSError as error:
        mend = "make the file readable by agentd, or remove it"
        raise ConfigErrors(
            [ConfigError(file, 0, f"cannot be read: {error.strerror}", mend)]
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigErrors(
            [ConfigError(file, line, "a byte that is not UTF-8", "save the file as UTF-8")]
        ) from error
    return parse(text, file)


def parse(text: str, file: Path) -> Document:
    """The document in a text; `file` is only named in problems. Raises ConfigErrors with all."""
    builder = _Builder(file)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        mend = "check indentation, quotes and colons on this line and the one before"
        raise ConfigErrors([ConfigError(file, line, f"not YAML: {what}", mend)]) from error
    except yaml.YAMLError as error:
        message = f"not YAML: {str(error).splitlines()[0]}"
        raise ConfigErrors([ConfigError(file, 1, message, "remove control characters")]) from error
    data = {} if node is None else builder.value(node, ())
    if builder.problems:
        raise ConfigErrors(builder.problems)
    return Document(file, {} if data is None else data, builder.lines)


def load(file: Path, model: type[Model]) -> Model:
    """One file as one model. Raises ConfigErrors with every problem of the file."""
    document = read(file)
    value, problems = validate(document, model)
    if value is None:
        raise ConfigErrors(problems)
    return value


def validate(
    document: Document, model: type[Model], at: Location = ()
) -> tuple[Model | None, list[ConfigError]]:
    """The part of the document at `at` as a model, or None and everything that is wrong with it."""
    data = document.data
    for step in at:
        data = data[step]
    if not isinstance(data, dict):
        message = f"expected a mapping of fields, found {_kind(data)}"
        return None, [document.error(at, message, "fields are " + ", ".join(model.model_fields))]
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        problems = [
            document.error((*at, *problem["loc"]), *_explain(model, dict(problem)))
            for problem in error.errors(include_url=False)
        ]
        return None, sorted(problems, key=lambda problem: problem.line)


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> tuple[str, str]:
    """A pydantic problem -> what is wrong, and the mend."""
    location: Location = problem["loc"]
    fields = [step for step in location if isinstance(step, str) and step != "[key]"]
    name = fields[-1] if fields else ""
    context = problem.get("ctx") or {}
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown field {name!r}", nearest(name, _fields_at(model, location[:-1]))
        case "missing":
            return f"the field {name!r} is missing", f"add '{name}: ...'"
        case "literal_error":
            expected = str(context["expected"])
            return f"{name}: {value!r} is not one of the values it can have", f"use {expected}"
        case "string_pattern_mismatch":
            mend = f"it must match {context['pattern']}"
            return f"{name}: {value!r} has characters or a length that are not allowed", mend
        case "list_type" | "tuple_type" | "dict_type" | "model_type":
            wanted = "a list" if problem["type"] in {"list_type", "tuple_type"} else "a mapping"
            return f"{name}: expected {wanted}, found {_kind(value)}", f"write {name} as {wanted}"
        case _:
            mended = getattr(context.get("error"), "mend", None)
            text = str(problem["msg"]).removeprefix("Value error, ")
            message, _, mend = text.partition("; ")
            if isinstance(mended, str):
                message, mend = text, mended
            if not mend:
                mend = f"found {_kind(value)}"
            prefix = f"{name}: " if name else ""
            return prefix + message[:1].lower() + message[1:], mend


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields of the model that describes that place; empty where none does."""
    current: Any = model
    for step in location:
        found = next(_models_in(current), None)
        if found is not None and isinstance(step, str) and step in found.model_fields:
            current = found.model_fields[step].annotation
    found = next(_models_in(current), None)
    return list(found.model_fields) if found else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation such as `list[X] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, types.UnionType, list, tuple, dict}:
        for inner in get_args(annotation):
            yield from _models_in(inner)


def _kind(value: Any) -> str:
    """What a person would call the value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:60]!r}"
        case list():
            return "a list"
        case _:
            return "a mapping"
