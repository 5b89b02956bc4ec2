"""Messages between supervisor and engine: JSON with file descriptors over a SEQPACKET pair."""

import array
import json
import socket
from typing import Any

_MESSAGE_ROOM = 1 << 18
_FDS_MAX = 64


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Sends one message. Raises OSError when the other side is gone."""
    ancillary = []
    if fds:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
    end.sendmsg([json.dumps(message).encode()], ancillary)


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None when the other side is gone."""
    try:
        data, ancillary, _, _ = end.recvmsg(
            _MESSAGE_ROOM, socket.CMSG_LEN(_FDS_MAX * array.array("i").itemsize)
        )
    except ConnectionError:
        return None
    if not data:
        return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return json.loads(data), list(fds)
