"""nats-py, without what it imports only if it can.

For WebSockets, for faster headers, for its own version: none is used here; aiohttp alone takes
15 MB, importlib.metadata 1.5 MB. The server is told version 0.0.0.
"""

import sys

_SPARED = [
    name
    for name in ("aiohttp", "fast_mail_parser", "importlib.metadata")
    if name not in sys.modules
]
for _name in _SPARED:
    sys.modules[_name] = None  # type: ignore[assignment]

from nats import errors  # noqa: E402
from nats.aio.client import Client, RawCredentials  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402

for _name in _SPARED:
    del sys.modules[_name]

__all__ = ["Client", "Msg", "RawCredentials", "errors"]
