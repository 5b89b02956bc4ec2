"""The tiers by name, best first, apart from `tiers`, which finds out and is large."""

from typing import Final

ENFORCE_LSM: Final = "enforce-lsm"
ENFORCE_FMODRET: Final = "enforce-fmodret"
OBSERVE: Final = "observe"
NONE: Final = "none"

WRITE_HOOKS: Final = frozenset({"file_permission", "socket_sendmsg"})
"""Where a server's write is held."""
