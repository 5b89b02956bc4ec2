"""The entry of the map `answers` for a held call: a key and a value, as bytes."""

from typing import Final

from agentd.kernel.decide_wire import ANSWER, ANSWER_KEY
from agentd.kernel.maps import HoldValue

_GOOD_FOR_NS: Final = 10_000_000_000


def answer_to(hold: HoldValue, result: int, now_ns: int) -> tuple[bytes, bytes]:
    """The verdict on a held call: 0, or a negative errno. It is good for ten seconds.

    `now_ns` is CLOCK_BOOTTIME.
    """
    key = ANSWER_KEY.pack(hold.tgid << 32 | hold.tid, hold.syscall, 0)
    subject = (hold.ino, hold.peer_ino, hold.address, hold.syscall, hold.access)
    return key, ANSWER.pack(*subject, hold.start_ns, now_ns + _GOOD_FOR_NS, result, 0)
