"""Live decisions on the daemon's own terminal (`agentd daemon --foreground`)."""

import re
from typing import TextIO

import orjson

from agentd.ui.live import render

# On the bytes of an event, because most are not shown and need not be parsed. A quote inside a
# string of the event is escaped there; a field of that name in a tool's arguments is shown too.
_SHOWN = re.compile(rb'"decision":|"class":"(?:loss|tamper|session\.|policy\.|daemon\.|hold\.)')


class Terminal:
    """Shows what an operator wants to see: decisions, sessions, losses, agentd itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty()

    def show(self, body: bytes) -> None:
        """A listener of the reporter; an event that decides nothing is not shown."""
        if not _SHOWN.search(body):
            return
        try:
            print(render(orjson.loads(body), self._colour), file=self._stream, flush=True)
        except OSError:
            return  # the terminal is gone; the journal has it
