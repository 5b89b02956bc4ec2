"""The daemon of the host tests with the patience that emulation needs."""

from typing import Any, Final

from tests.host.support.control import ControlClient, Message
from tests.host.support.daemon import Daemon

PATIENCE_S: Final = 300.0


class SlowDaemon(Daemon):
    """A `Daemon` that may take five minutes to start; on a quiet machine it takes ten seconds."""

    READY_TIMEOUT_S = PATIENCE_S

    def request(self, op: str, **fields: Any) -> Message:
        """One control request, whose answer may take as long: reading rules takes ten seconds."""
        with ControlClient(self.socket, PATIENCE_S) as client:
            return client.request(op, **fields)
