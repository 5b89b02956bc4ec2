"""Directories of rule files -> one checked policy."""

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from agentd import yamldoc
from agentd.errors import ConfigError, ConfigErrors
from agentd.policy.exchange import read_workload
from agentd.policy.files import rule_files
from agentd.policy.globs import GlobError, NameGlobs
from agentd.policy.model import RuleModel, problems
from agentd.policy.rules import Defaults, Policy, Source
from agentd.spelling import guess, nearest
from agentd.workloads.model import WorkloadModel

Model = TypeVar("Model", bound=BaseModel)

STANDARD = Defaults()
TOP_LEVEL = ["disable", "rules", "workloads"]


class _Collector:
    def __init__(self, defaults: Defaults, beside: Sequence[Path]) -> None:
        self.policy = Policy()
        self._defaults = defaults
        self._beside = beside
        self.problems: list[ConfigError] = []
        self._workload_sources: dict[str, tuple[int, Source]] = {}

    def add(self, file: Path, directory: int, *, named: bool) -> None:
        """Everything in one file; `directory` is the position of its directory in the list.

        `named`: the list has the file itself, which may then be a pipe.
        """
        try:
            document = yamldoc.read(file, only_regular=not named)
        except ConfigErrors as errors:
            self.problems.extend(errors.errors)
            return
        if not isinstance(document.data, dict):
            mend = "write 'rules:' or 'workloads:' and a list under it"
            self.problems.append(document.error((), "the file is not a mapping", mend))
            return
        # First, so that a rule of this file may have the id of one that it switches off.
        self._disable(document)
        for key, value in document.data.items():
            if key not in TOP_LEVEL:
                mend = nearest(key, TOP_LEVEL)
                self.problems.append(document.error((key,), f"unknown field {key!r}", mend))
            elif value is not None and not isinstance(value, list):
                mend = f"put '- ' before each of the {key}"
                self.problems.append(document.error((key,), f"{key!r} is not a list", mend))
            else:
                for index in range(len(value or ())):
                    if key == "rules":
                        self._rule(document, ("rules", index))
                    elif key == "workloads":
                        self._workload(document, ("workloads", index), directory)

    def _validated(
        self, document: yamldoc.Document, model: type[Model], at: yamldoc.Location
    ) -> Model | None:
        value, found = yamldoc.validate(document, model, at)
        self.problems.extend(found)
        return value

    def _rule(self, document: yamldoc.Document, at: yamldoc.Location) -> None:
        rule = self._validated(document, RuleModel, at)
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
        self.policy.rules.append(rule.to_rule(self._defaults))

    def _workload(self, document: yamldoc.Document, at: yamldoc.Location, directory: int) -> None:
        workload = self._validated(document, WorkloadModel, at)
        if workload is None:
            return
        earlier = self._workload_sources.get(workload.name)
        if earlier is not None and earlier[0] == directory:
            message = f"the workload {workload.name!r} is also at {earlier[1]}"
            self.problems.append(document.error((*at, "name"), message, "give one another name"))
            return
        source = Source(document.file, document.line((*at, "name")))
        self._workload_sources[workload.name] = (directory, source)
        plain = read_workload(workload.model_dump())
        if "on_failure" not in workload.model_fields_set:
            plain = replace(plain, on_failure=self._defaults.on_failure)
        self.policy.workloads[workload.name] = plain

    def _disable(self, document: yamldoc.Document) -> None:
        """Takes out the rules that `disable:` names, of the files that were read before."""
        written = document.data.get("disable")
        if not isinstance(written, list):
            return
        known = {*self.policy.sources, *self.policy.disabled}
        for index, text in enumerate(written):
            at = ("disable", index)
            try:
                chosen = _chooser(text)
            except GlobError as error:
                self.problems.append(document.error(at, f"disable: {error}", error.mend))
                continue
            source = Source(document.file, document.line(at))
            found = [rule for rule in self.policy.sources if chosen.match(rule)]
            for rule in found:
                self.policy.disabled[rule] = source
                del self.policy.sources[rule]
            if not found and not any(map(chosen.match, known | self._ids_beside())):
                message = f"disable: no rule read before this file has the id {text!r}"
                mend = guess(text, sorted(known)) or "`agentd rules list` shows all"
                self.problems.append(document.error(at, message, mend))
        self.policy.rules = [rule for rule in self.policy.rules if rule.id in self.policy.sources]

    def _ids_beside(self) -> set[str]:
        found: set[str] = set()
        for file in itertools.chain.from_iterable(map(rule_files, self._beside)):
            with contextlib.suppress(ConfigErrors):
                data = yamldoc.read(file, only_regular=True).data
                rules = data.get("rules") if isinstance(data, dict) else None
                found |= {str(rule.get("id")) for rule in rules or () if isinstance(rule, dict)}
        return found


def _chooser(text: object) -> NameGlobs:
    """The glob of one entry of `disable:`. Raises GlobError."""
    if not isinstance(text, str):
        raise GlobError(f"{text!r} is not the id of a rule", "write an id, or a glob over ids")
    if text.startswith("!"):
        raise GlobError(f"{text!r}: '!' means nothing here", "name the rules to switch off")
    return NameGlobs([text])


def load(
    directories: Iterable[Path], defaults: Defaults = STANDARD, beside: Sequence[Path] = ()
) -> Policy:
    """All `*.yaml` and `*.yml` of the directories, in the order of their names.

    A path may also be one file, or a pipe; what does not exist is skipped. Rule ids are unique over
    all files.
    A host's own file can change what is shipped: a workload replaces one of the same name from an
    earlier directory, and `disable:` switches off rules of any file read before. It may also name
    rules of the files `beside`, which are not loaded: for a check of some files by themselves.

    Raises ConfigErrors with every problem of every file; a caller who reloads then keeps the policy
    it has.
    """
    collector = _Collector(defaults, beside)
    for position, directory in enumerate(directories):
        for file in rule_files(directory):
            collector.add(file, position, named=file == directory)
    if collector.problems:
        raise ConfigErrors(collector.problems)
    return collector.policy
