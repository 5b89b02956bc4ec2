"""What a new engine needs of the one before it, in a file of its own: sessions, above all.

It is not kept in the journal: a journal that is damaged and set aside, or a disk that is full, must
not cost the running sessions their labels.
"""

import os
from pathlib import Path
from typing import Any, Final

import orjson

from agentd.errors import AgentdError

KILLED: Final = {
    "count": 0,
    "source": "engine.killed",
    "error": "the engine before this one ended before it had written all that it had in memory",
}
"""The loss that an engine tells of if the one before it has left the mark `running`."""


class State:
    """One JSON object. A reader sees the old one or the new one, never a part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = b""

    def read(self) -> dict[str, Any]:
        """What was saved last; empty if nothing was.

        Raises AgentdError if it cannot be read or is damaged.
        """
        try:
            self._saved = self._path.read_bytes()
            found = orjson.loads(self._saved)
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise AgentdError(
                f"{self._path}: {error}; it says which process belongs to which session. If it is"
                " lost, end the sessions, run `agentd unload`, delete the file and start agentd"
            ) from error
        return dict(found)

    def save(self, state: dict[str, Any]) -> None:
        """Puts `state` in the place of what was saved. Raises OSError; what was saved stays then.

        It outlives a crash of agentd. Of a crash of the machine it need not: no process does.
        """
        data = orjson.dumps(state)
        if data == self._saved:
            return
        new = self._path.with_name(f"{self._path.name}.new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        new.replace(self._path)
        self._saved = data
