"""The control socket: one JSON request a line, one JSON answer a line; `watch` then streams."""

import contextlib
import grp
import socket
import struct
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import orjson

from agentd.daemon.report import Reporter
from agentd.errors import AgentdError
from agentd.events.model import dumps
from agentd.kernel.maps import KernelMaps
from agentd.workloads.procfs import read_stat

_REQUEST_MAX = 1 << 16
_PEERS_MAX = 256
"""Connections; anybody may connect, and each costs a descriptor."""
_BACKLOG_MAX = 8 << 20
_UCRED = struct.Struct("=iII")

Handler = Callable[["Peer", dict[str, Any]], dict[str, Any] | None]
"""An operation: peer and request -> answer, or None if `Control.answer` gives it later."""


class Refused(AgentdError):  # noqa: N818 (an answer, not a fault)
    """A request that is not carried out; `code` is for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Peer:
    """One connection, and who is at its other end (SO_PEERCRED: pid, uid, gid at connect time).

    `labelled`: whether it came from inside a session.
    """

    def __init__(self, connection: socket.socket, kernel: KernelMaps) -> None:
        self.connection = connection
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, self.gid = _UCRED.unpack(credentials)
        self.labelled = kernel.label_of(self.pid) is not None
        stat = read_stat(self.pid)
        self._start_ticks = stat and stat.start_ticks
        self.heard = b""
        self.unsent = bytearray()
        self.watching: Callable[[bytes], None] | None = None
        self.waiting = False
        self.missed = 0

    def must_run(self) -> None:
        """Raises Refused if the process that has connected is gone: its number names nobody then.

        Another one may use its connection, and would be taken for whoever has the number next.
        """
        stat = read_stat(self.pid)
        if stat is None or stat.exiting or stat.start_ticks != self._start_ticks:
            raise Refused("denied", "the process that has connected does not run any more")

    def send(self, data: bytes) -> None:
        """Sends now what the socket takes, keeps the rest."""
        self.unsent += data
        self.write()

    def write(self) -> None:
        """Sends what is kept, as far as the socket takes it."""
        while self.unsent:
            try:
                sent = self.connection.send(self.unsent)
            except BlockingIOError:
                return
            del self.unsent[:sent]


class Control:
    """Serves the control socket inside the engine's loop; no call blocks."""

    def __init__(
        self, listener: socket.socket, group: str, kernel: KernelMaps, reporter: Reporter
    ) -> None:
        listener.settimeout(0)
        self.listener = listener
        self._group = group
        self._kernel = kernel
        self._reporter = reporter
        self._peers: dict[int, Peer] = {}
        self.handlers: dict[str, Handler] = {}
        self.handlers["watch"] = self._watch

    def accept(self) -> int | None:
        """A new connection's descriptor, to be polled for reading."""
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return None
        connection.settimeout(0)
        self._peers[connection.fileno()] = Peer(connection, self._kernel)
        if len(self._peers) > _PEERS_MAX:
            self._make_room()
        return connection.fileno()

    def has(self, fd: int) -> bool:
        """Whether the descriptor is a connection."""
        return fd in self._peers

    def serve(self, fd: int, *, readable: bool, writable: bool) -> bool:
        """Handles one ready connection; False when it is closed."""
        peer = self._peers[fd]
        try:
            if writable:
                peer.write()
            if readable and not self._read(peer):
                self.drop(fd)
                return False
        except OSError:
            self.drop(fd)
            return False
        return True

    def wants_write(self, fd: int) -> bool:
        """Whether something waits until the connection can be written; it is not read till then."""
        return bool(self._peers[fd].unsent)

    def backlogged(self) -> list[int]:
        """Watchers with data that their sockets did not take yet."""
        return [fd for fd, peer in self._peers.items() if peer.unsent]

    def drop(self, fd: int) -> None:
        """Forgets a connection and closes it."""
        peer = self._peers.pop(fd)
        if peer.watching:
            self._reporter.unlisten(peer.watching)
        peer.connection.close()

    def answer(self, peer: Peer, result: dict[str, Any]) -> None:
        """The answer to a request that had to wait; then come the requests made meanwhile."""
        if self._peers.get(peer.connection.fileno()) is not peer:
            return  # it did not wait
        peer.waiting = False
        with contextlib.suppress(OSError):  # the loop finds a broken connection
            peer.send(_line({"ok": True, **result}))
            self._serve_heard(peer)

    def close(self) -> None:
        """Closes every connection; the listener belongs to the supervisor."""
        for fd in list(self._peers):
            self.drop(fd)

    def may_decide(self, peer: Peer) -> None:
        """Raises Refused unless the peer may approve: privileged, and outside every session."""
        if peer.labelled or self._kernel.label_of(peer.pid) is not None:
            raise Refused("denied", "an agent may not decide: the caller is inside a session")
        peer.must_run()  # looked at last: with it the label would have gone
        if peer.uid != 0 and self._group not in _groups_of(peer):
            raise Refused("denied", f"only root and members of the group {self._group} may do this")

    def may_look(self, peer: Peer) -> None:
        """Raises Refused unless the peer may see what tools are called with."""
        peer.must_run()
        if peer.uid != 0 and self._group not in _groups_of(peer):
            raise Refused(
                "denied", f"only root and members of the group {self._group} may see this"
            )

    def _make_room(self) -> None:
        """The user who has most connections loses the oldest; in a session he is another one."""
        users = [(peer.labelled, peer.uid) for peer in self._peers.values()]
        (most, _), *_ = Counter(users).most_common(1)
        self.drop(list(self._peers)[users.index(most)])

    def _read(self, peer: Peer) -> bool:
        """Takes one request; the next ones wait in the socket until others have had their turn."""
        try:
            ahead = peer.connection.recv(_REQUEST_MAX, socket.MSG_PEEK)
            line = 0 if peer.waiting else ahead.find(b"\n") + 1
            data = peer.connection.recv(line or _REQUEST_MAX)
        except BlockingIOError:
            return True
        if not data:
            return False
        peer.heard += data
        self._serve_heard(peer)
        return len(peer.heard) <= _REQUEST_MAX

    def _serve_heard(self, peer: Peer) -> None:
        """Answers in the order of the requests; one that has to wait keeps the others waiting."""
        while not peer.waiting and b"\n" in peer.heard:
            line, peer.heard = peer.heard.split(b"\n", 1)
            answer = self._answer(peer, line)
            if answer is None:
                peer.waiting = True
            else:
                peer.send(_line(answer))

    def _carry_out(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any] | None:
        handler = self.handlers.get(request["op"])
        if handler is None:
            return _error("bad-request", f"there is no operation {request['op']!r}")
        answer = handler(peer, request)
        return None if answer is None else {"ok": True, **answer}

    def _answer(self, peer: Peer, line: bytes) -> dict[str, Any] | None:
        try:
            return self._carry_out(peer, orjson.loads(line))
        except Refused as refused:
            return _error(refused.code, str(refused))
        except AgentdError as error:
            return _error("refused", str(error))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            return _error("bad-request", f"not a request: {error}")

    def _watch(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        self.may_look(peer)
        if peer.watching:
            raise Refused("bad-request", "this connection watches already")
        wanted = _filter(request)

        def listener(body: bytes) -> None:
            if len(peer.unsent) > _BACKLOG_MAX:
                peer.missed += 1
                return
            if wanted is not None and not wanted(orjson.loads(body)):
                return
            if peer.missed:
                loss = {"class": "loss", "loss": {"count": peer.missed, "source": "watch"}}
                peer.unsent += orjson.dumps(loss) + b"\n"
                peer.missed = 0
            peer.unsent += body + b"\n"
            with contextlib.suppress(OSError):  # the loop finds a broken connection
                peer.write()

        peer.watching = listener
        self._reporter.listen(listener)
        return {}


def _line(answer: dict[str, Any]) -> bytes:
    return dumps(answer) + b"\n"  # what is held is in the agent's own words


def _error(code: str, text: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "error": text}


def _groups_of(peer: Peer) -> set[str]:
    """Names of the groups that the peer's process has now."""
    numbers = {peer.gid}
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{peer.pid}/status") as status:
        for line in status:
            if line.startswith("Groups:"):
                numbers.update(int(number) for number in line.split()[1:])
    names = set()
    for number in numbers:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return names


def _filter(request: dict[str, Any]) -> Callable[[dict[str, Any]], bool] | None:
    """What `watch` asks for: classes and workload by glob, verdicts, a rule by glob."""
    classes, workload = request.get("classes"), request.get("workload")
    verdicts, rule = request.get("verdict"), request.get("rule")
    for name, texts in (("classes", classes), ("verdict", verdicts)):
        if texts and not (isinstance(texts, list) and all(isinstance(one, str) for one in texts)):
            raise Refused("bad-request", f"{name} is not a list of texts")
    for name, text in (("workload", workload), ("rule", rule)):
        if text and not isinstance(text, str):
            raise Refused("bad-request", f"{name} is not a text")
    if not (classes or workload or verdicts or rule):
        return None

    def wanted(event: dict[str, Any]) -> bool:
        if classes and not any(fnmatchcase(event["class"], glob) for glob in classes):
            return False
        if workload and not fnmatchcase(event.get("workload") or "", workload):
            return False
        decision = event.get("decision") or {}
        if verdicts and decision.get("verdict") not in verdicts:
            return False
        return not rule or any(fnmatchcase(name, rule) for name in decision.get("rules", ()))

    return wanted
