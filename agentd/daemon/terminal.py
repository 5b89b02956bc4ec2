"""Live decisions on the daemon's own terminal (`agentd daemon --foreground`)."""

from typing import TextIO

import orjson

from agentd.ui.live import render

_ALWAYS = ("session.", "policy.", "daemon.", "hold.", "tamper")


class Terminal:
    """Shows what an operator wants to see: decisions, sessions, and what the daemon has to say."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty()

    def show(self, body: bytes) -> None:
        """A listener of the reporter; an event that decides nothing is not shown."""
        if b'"decision":' not in body and b'"loss":' not in body:
            event = orjson.loads(body) if b'"class":"mcp.' not in body else None
            if event is None or not event["class"].startswith(_ALWAYS):
                return
        else:
            event = orjson.loads(body)
        try:
            print(render(event, self._colour), file=self._stream, flush=True)
        except OSError:
            return  # the terminal is gone; the journal has it
