"""Opens the engine's journal."""

import sqlite3
from functools import partial

from agentd import paths
from agentd.daemon.settings import Settings
from agentd.errors import AgentdError
from agentd.events.journal import Journal
from agentd.stream.state import sent_floor


def open_journal(settings: Settings, *, begun: bool) -> Journal:
    """The journal that is configured; `begun`: one has been kept in this boot.

    Raises AgentdError.
    """
    floor = partial(sent_floor, paths.publisher_state_dir(settings.state_dir))
    try:
        settings.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        return Journal(
            settings.journal_path,
            settings.journal_budget,
            settings.host_name,
            paths.boot_id(),
            sent_floor=floor if settings.streams else None,
            begun=begun,
        )
    except (OSError, sqlite3.Error) as error:
        file = settings.journal_path
        raise AgentdError(f"the journal {file} cannot be opened: {error}") from error
