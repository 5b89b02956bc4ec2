"""What labelled servers are about to write to clients that are not labelled: judged before it."""

import os
from errno import EPERM
from functools import partial

from agentd.daemon.channels import Channel, Channels
from agentd.daemon.ends import INODE
from agentd.daemon.messages import Messages
from agentd.daemon.refusing import Held
from agentd.daemon.report import Reporter
from agentd.daemon.transcript import Transcript
from agentd.enforce.stops import Stops
from agentd.kernel import memory, sending
from agentd.kernel.decisions import Decisions
from agentd.kernel.maps import HoldValue, KernelMaps
from agentd.mcp import jsonrpc
from agentd.mcp.outgoing import Outgoing
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session


class WriteHolds:
    """Finds out what a held write sends and to whom; `Messages` judges it and acts."""

    def __init__(  # noqa: PLR0917 (one of each of the engine's parts)
        self,
        kernel: KernelMaps,
        decisions: Decisions | None,
        channels: Channels,
        messages: Messages,
        stops: Stops,
        reporter: Reporter,
    ) -> None:
        self._kernel = kernel
        self._decisions = decisions
        self._channels = channels
        self._messages = messages
        self._stops = stops
        self._reporter = reporter
        self._transcript = Transcript(reporter)

    def on_hold(self, hold: HoldValue, session: Session, info: ProcessInfo) -> None:
        """A thread that is held at the entry of a write."""
        channel = self._channels.written(hold.ino)
        if channel is None:
            peer_ino = _socket_at(hold.tgid, hold.fd)
            readers = self._channels.readers(hold.ino, peer_ino, info)
            if readers and all(self._judges(pid, hold) for pid in readers):
                self._kernel.leave_to_reader(hold.ino)
                self._let_go(hold)
                return
            channel = self._channels.open_written(hold.ino, peer_ino, readers, info)
        written = self._kernel.written(hold.ino)
        outgoing = channel.written_by(info, written.bytes)
        try:
            pieces = sending.pieces_of(hold)
            data = memory.read(hold.tgid, pieces) if pieces else b""
            again = outgoing.follow(written.bytes, data, settled=not written.under_way)
            if not data.startswith(again):
                memory.overwrite(hold.tgid, pieces, again)
        except OSError as error:
            self._unreadable(hold, session, info, str(error))
            return
        given, pieces = data[len(again) :], memory.without(pieces, len(again))
        if channel.role is None:
            self._learn(channel, given)
        if channel.role == "server":  # from a client: not held any more
            self._let_go(hold)
            return
        judged = self._messages.judge(
            channel, outgoing.stream, session, info, given, hold.time_ns, held=True
        )
        held = Held(hold, session, info, channel, pieces, given, 0, judged)
        held.answer = partial(self._answer, held, outgoing, given)
        held.first = not again and not written.under_way
        self._messages.settle(held)

    def _judges(self, reader: int, hold: HoldValue) -> bool:
        """Whether the same rules hold this process when it reads."""
        label = self._kernel.label_of(reader)
        return label is not None and label.workload == hold.workload

    def _learn(self, channel: Channel, data: bytes) -> None:
        for line in data.split(b"\n"):
            for message in jsonrpc.parse(line):
                self._channels.learn(channel, message)

    def _unreadable(self, hold: HoldValue, session: Session, info: ProcessInfo, why: str) -> None:
        refuses = session.on_failure == "deny"
        outcome = "denied" if refuses else "allowed"
        self._let_go(hold, -EPERM if refuses else 0)
        self._transcript.unreadable(hold, session, info, outcome, why)

    def _answer(self, held: Held, outgoing: Outgoing, given: bytes, result: int) -> None:
        if not result:
            outgoing.let_go(given, held.data)
        self._tell_kernel(held.hold, result)

    def _let_go(self, hold: HoldValue, result: int = 0) -> None:
        self._tell_kernel(hold, result)
        self._stops.go_on(hold)

    def _tell_kernel(self, hold: HoldValue, result: int) -> None:
        if self._decisions is not None:
            self._decisions.answer(hold, result, self._reporter.clock.now())


def _socket_at(tgid: int, fd: int) -> int:
    """The inode of the socket that a descriptor is; 0 if it is a pipe, or gone."""
    try:
        link = os.readlink(f"/proc/{tgid}/fd/{fd}")
    except OSError:
        return 0
    found = INODE.fullmatch(link)
    return int(found[1]) if found and link.startswith("socket:") else 0
