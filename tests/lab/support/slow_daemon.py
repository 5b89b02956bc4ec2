"""The daemon of the host tests with the patience that emulation needs."""

from typing import Final

from tests.host.support.daemon import Daemon

PATIENCE_S: Final = 120.0


class SlowDaemon(Daemon):
    """A `Daemon` that may take two minutes to start; it takes about ten seconds."""

    READY_TIMEOUT_S = PATIENCE_S
