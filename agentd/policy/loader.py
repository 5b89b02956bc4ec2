"""Directories of rule files -> one checked policy."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from agentd import yamldoc
from agentd.errors import ConfigError, ConfigErrors
from agentd.policy.model import Rule, problems
from agentd.workloads.model import Workload

Fingerprint = tuple[tuple[str, int, int, int], ...]
Model = TypeVar("Model", bound=BaseModel)

TOP_LEVEL = ["rules", "workloads"]
_generations = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule or workload is written."""

    file: Path
    line: int
    examples: dict[tuple[str, int], int] = field(default_factory=dict)
    """("match" or "pass", index) -> line, for the tests of a rule."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Policy:
    """All workloads and rules in force. `generation` grows with every successful load."""

    workloads: dict[str, Workload] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    generation: int = 0
    sources: dict[str, Source] = field(default_factory=dict)
    """Rule id -> where it is written."""


class _Collector:
    def __init__(self) -> None:
        self.policy = Policy()
        self.problems: list[ConfigError] = []
        self._workload_sources: dict[str, tuple[int, Source]] = {}

    def add(self, file: Path, directory: int) -> None:
        """Everything in one file; `directory` is the position of its directory in the list."""
        try:
            document = yamldoc.read(file)
        except ConfigErrors as errors:
            self.problems.extend(errors.errors)
            return
        if not isinstance(document.data, dict):
            mend = "write 'rules:' or 'workloads:' and a list under it"
            self.problems.append(document.error((), "the file is not a mapping", mend))
            return
        for key, value in document.data.items():
            if key not in TOP_LEVEL:
                mend = yamldoc.nearest(key, TOP_LEVEL)
                self.problems.append(document.error((key,), f"unknown field {key!r}", mend))
            elif value is not None and not isinstance(value, list):
                mend = f"put '- ' before each of the {key}"
                self.problems.append(document.error((key,), f"{key!r} is not a list", mend))
            else:
                for index in range(len(value or ())):
                    if key == "rules":
                        self._rule(document, ("rules", index))
                    else:
                        self._workload(document, ("workloads", index), directory)

    def _validated(
        self, document: yamldoc.Document, model: type[Model], at: yamldoc.Location
    ) -> Model | None:
        value, found = yamldoc.validate(document, model, at)
        self.problems.extend(found)
        return value

    def _rule(self, document: yamldoc.Document, at: yamldoc.Location) -> None:
        rule = self._validated(document, Rule, at)
        if rule is None:
            return
        self.problems.extend(
            document.error((*at, *where), message, mend) for where, message, mend in problems(rule)
        )
        earlier = self.policy.sources.get(rule.id)
        if earlier is not None:
            message = f"the rule {rule.id!r} is also at {earlier}"
            self.problems.append(document.error((*at, "id"), message, "give one another id"))
            return
        examples = {
            (kind, index): document.line((*at, "tests", kind, index))
            for kind, listed in (("match", rule.tests.match), ("pass", rule.tests.pass_))
            for index in range(len(listed))
        }
        self.policy.sources[rule.id] = Source(document.file, document.line((*at, "id")), examples)
        self.policy.rules.append(rule)

    def _workload(self, document: yamldoc.Document, at: yamldoc.Location, directory: int) -> None:
        workload = self._validated(document, Workload, at)
        if workload is None:
            return
        earlier = self._workload_sources.get(workload.name)
        if earlier is not None and earlier[0] == directory:
            message = f"the workload {workload.name!r} is also at {earlier[1]}"
            self.problems.append(document.error((*at, "name"), message, "give one another name"))
            return
        source = Source(document.file, document.line((*at, "name")))
        self._workload_sources[workload.name] = (directory, source)
        self.policy.workloads[workload.name] = workload


def load(directories: Iterable[Path]) -> Policy:
    """All `*.yaml` and `*.yml` of the directories, in the order of their names.

    A path may also be one file; what does not exist is skipped. Rule ids are unique over all files.
    A workload replaces one of the same name from an earlier directory, so that a host's own file
    can change what is shipped. Raises ConfigErrors with every problem of every file; a caller who
    reloads then keeps the policy it has.
    """
    collector = _Collector()
    for position, directory in enumerate(directories):
        for file in _files(directory):
            collector.add(file, position)
    if collector.problems:
        raise ConfigErrors(collector.problems)
    collector.policy.generation = next(_generations)
    return collector.policy


def fingerprint(directories: Iterable[Path]) -> Fingerprint:
    """Changes when a file is added, removed, replaced or edited: name, inode, size, mtime (ns)."""
    found = []
    for directory in directories:
        for file in _files(directory):
            try:
                status = file.stat()
            except OSError:
                found.append((str(file), 0, 0, 0))
            else:
                found.append((str(file), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".")
        )
    except OSError:
        return []
