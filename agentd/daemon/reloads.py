"""Rules are read again: beside the loop, by a process of its own, one at a time.

The loop goes on judging by the last good rules until the new ones are there as plain data. They are
compiled in one of its turns and put in force in the next, so that calls wait for either, not both.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentd.daemon.inforce import CompiledPolicy, PolicyInForce, compile_policy
from agentd.daemon.loading import Loading
from agentd.daemon.log import log
from agentd.daemon.settings import Loaded, read_loaded
from agentd.errors import AgentdError
from agentd.policy.files import fingerprint

Answer = Callable[[dict[str, Any]], None]
_NOW = frozenset({"rules", "defaults"})  # the parts of the configuration that a reload takes over


class Reloads:
    """Reloads on request, and when a rule file has changed.

    `own` holds the pids that are never labelled: a selector may match that process too.
    """

    def __init__(
        self, arguments: list[str], loaded: Loaded, policy: PolicyInForce, own: set[int]
    ) -> None:
        self._arguments = arguments
        self._policy = policy
        self._own = own
        self._config = loaded.config
        self._directories = loaded.directories
        self._fingerprint = loaded.fingerprint
        self._present = _existing(loaded.directories)
        self._wanted = False
        self._loading: Loading | None = None
        self._compiled: CompiledPolicy | None = None
        self._next: list[Answer] = []
        self._served: list[Answer] = []

    def request(self, answer: Answer | None = None) -> None:
        """Asks for a reload that begins after this call; `answer` gets what came of it."""
        self._wanted = True
        if answer is not None:
            self._next.append(answer)

    def look(self) -> None:
        """Asks for a reload if a file has changed. Some `stat`s; four times a second is enough."""
        if fingerprint(self._directories) != self._fingerprint:
            self._wanted = True

    @property
    def compiled(self) -> bool:
        """Whether other rules are ready: the next turn should come at once."""
        return self._compiled is not None

    def turn(self) -> bool:
        """One turn of the loop; True if other rules are in force now."""
        if self._compiled is not None:
            compiled, self._compiled = self._compiled, None
            self._tell(self._policy.reload(compiled))
            return True
        if self._loading is not None:
            if self._loading.done():
                self._finish(self._loading)
        elif self._wanted:
            self._start()
        return False

    def close(self) -> None:
        """Ends what is under way; nobody gets an answer."""
        if self._loading is not None:
            self._loading.abandon()

    def _start(self) -> None:
        self._wanted = False
        self._served, self._next = self._next, []
        self._fingerprint = fingerprint(self._directories)
        try:
            self._loading = Loading(self._arguments)
        except AgentdError as error:
            self._tell(self._policy.reject([str(error)]))
        else:
            self._own.add(self._loading.pid)

    def _finish(self, loading: Loading) -> None:
        self._loading = None
        self._own.discard(loading.pid)
        try:
            loaded = read_loaded(loading.result())
        except AgentdError as error:
            self._tell(self._policy.reject(str(error).splitlines()))
            return
        gone = self._present & set(loaded.directories) - _existing(loaded.directories)
        if gone:
            mend = "is gone, its rules stay in force; make it again, without files to have none"
            self._tell(self._policy.reject([f"{path} {mend}" for path in sorted(gone)]))
            return
        self._present = _existing(loaded.directories)
        self._directories = loaded.directories
        self._fingerprint = loaded.fingerprint
        self._compare(loaded.config)
        self._compiled = compile_policy(loaded.policy)

    def _tell(self, result: dict[str, Any]) -> None:
        for answer in self._served:
            answer(result)
        self._served = []

    def _compare(self, config: dict[str, Any]) -> None:
        """Says once for each change what of the configuration is not taken over."""
        before, self._config = self._config, config
        changed = sorted(key for key in config.keys() - _NOW if config[key] != before.get(key))
        if changed:
            names = ", ".join(changed)
            log(f"the configuration has changed ({names}); restart agentd to use it")


def _existing(directories: list[Path]) -> set[Path]:
    return {path for path in directories if path.exists()}
