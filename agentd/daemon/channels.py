"""Byte channels with MCP on them: who reads, who writes, which two belong together.

The kernel knows a channel by the inode that is read. Who writes to it is looked up in /proc once,
when the channel is first seen: the processes that have the other end open. So is who reads, where
a write is held.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentd.daemon.ends import INODE, descriptors, has_open, link_to
from agentd.kernel.maps import KernelMaps
from agentd.kernel.wire import ROLE_MCP, ROLE_OTHER, ROLE_TO_CLIENT, ROLE_TO_SERVER
from agentd.mcp import protocol
from agentd.mcp.connection import Conversation
from agentd.mcp.jsonrpc import Message
from agentd.mcp.outgoing import Outgoing
from agentd.mcp.protocol import Role
from agentd.mcp.stream import MessageStream
from agentd.workloads.identity import ProcessInfo, ProcessKey, same_start
from agentd.workloads.processes import ProcessTable
from agentd.workloads.procfs import read_process

_CHANNELS_MAX = 4096
_NOISE_MAX = 64
_OURS = (protocol.CLIENT_REQUESTS.keys() | protocol.SERVER_REQUESTS.keys()) - {"initialize", "ping"}
"""Methods that no other JSON-RPC protocol has: a sender that omits "jsonrpc" still speaks MCP."""
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Party:
    """One end of a conversation; `name` is what policy calls a server."""

    __slots__ = ("_argv", "_name", "info")

    def __init__(self, info: ProcessInfo, seen: ProcessInfo | None = None) -> None:
        """`seen` is what /proc says now: the record of the last exec may still be on its way."""
        self.info = info
        self._argv = info.argv
        self._name = program_name(seen or info)

    @property
    def name(self) -> str:
        """The program's name as of its last exec."""
        if self.info.argv is not self._argv:
            self._argv = self.info.argv
            self._name = program_name(self.info)
        return self._name

    def describe(self) -> dict[str, object]:
        """As in events."""
        return {"name": self.name, "pid": self.info.key.tgid, "exe": self.info.exe}


@dataclass(slots=True)
class Channel:
    """One direction: bytes that `reader` reads from `ino`."""

    ino: int
    peer_ino: int
    reader: Party
    writer: Party | None
    stream: MessageStream
    conversation: Conversation
    role: Role | None = None
    is_mcp: bool = False
    noise: int = 0
    outgoing: Outgoing | None = None
    """Where it is judged as it is written."""

    @property
    def server(self) -> Party | None:
        """Who answers requests, as far as it is known."""
        return self.reader if self.role == "server" else self.writer

    def written_by(self, writer: ProcessInfo, taken: int) -> Outgoing:
        """What is written, from now on by `writer`; the channel has taken so many bytes of it."""
        if self.writer is None or self.writer.info is not writer:
            self.writer = Party(writer)
        if self.outgoing is None:
            self.outgoing = Outgoing(taken)
        return self.outgoing

    @property
    def client(self) -> Party | None:
        """Who asks."""
        return self.writer if self.role == "server" else self.reader

    def resume(self, *, lost: bool, inside: bool) -> MessageStream:
        """The stream for a read that may begin after a gap (`lost`), or inside a line."""
        if lost:
            self.stream = MessageStream()
        framer = self.stream.framer
        if inside and not framer.pending_size and framer.synced:
            self.stream.lost()
        return self.stream


class Channels:
    """Every channel that has carried something like MCP, the least recently used falls out."""

    def __init__(self, kernel: KernelMaps, table: ProcessTable) -> None:
        self._kernel = kernel
        self._table = table
        self._channels: OrderedDict[int, Channel] = OrderedDict()
        self._conversations: OrderedDict[frozenset[ProcessKey], Conversation] = OrderedDict()

    def get(self, ino: int, peer_ino: int, reader: ProcessInfo) -> Channel:
        """The channel of an inode, made if it is new."""
        channel = self._channels.get(ino)
        if channel is not None:
            if channel.reader.info is not reader:  # inherited, or handed over
                channel.reader = Party(reader)
                if channel.role == "client" and channel.outgoing is None:
                    channel.role = None
                    self._kernel.set_role(ino, ROLE_MCP)
            return channel
        return self._add(ino, peer_ino, reader, None)

    def _add(
        self, ino: int, peer_ino: int, reader: ProcessInfo, writer: ProcessInfo | None
    ) -> Channel:
        channel = Channel(
            ino,
            peer_ino,
            self._party(reader),
            None if writer is None else self._party(writer),
            MessageStream(),
            self._conversation(reader, writer),
        )
        role = self._kernel.role_of(ino)
        if role & ROLE_MCP:  # an engine before this one has learnt it
            self._is_mcp(channel)
            if role & (ROLE_TO_SERVER | ROLE_TO_CLIENT):
                channel.role = "server" if role & ROLE_TO_SERVER else "client"
        self._channels[ino] = channel
        if len(self._channels) > _CHANNELS_MAX:
            self._channels.popitem(last=False)
        return channel

    def written(self, ino: int) -> Channel | None:
        """The channel that is read at `ino`, if writes to it are judged."""
        channel = self._channels.get(ino)
        return channel if channel is not None and channel.outgoing is not None else None

    def open_written(
        self, ino: int, peer_ino: int, readers: Sequence[int], writer: ProcessInfo
    ) -> Channel:
        """The channel to `readers` (as `readers` finds them), made if it is new."""
        channel = self._channels.get(ino)
        if channel is not None:
            return channel
        return self._add(ino, peer_ino, self._reader_of(writer, readers), writer)

    def readers(self, ino: int, peer_ino: int, writer: ProcessInfo) -> list[int]:
        """The processes at the other end of what `writer` writes to, itself left out."""
        target = f"socket:[{ino}]" if peer_ino else f"pipe:[{ino}]"
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [
            pid
            for pid in pids
            if pid != writer.key.tgid and has_open(pid, target, readable=not peer_ino)
        ]

    def learn(self, channel: Channel, message: Message) -> None:
        """What a message says about the channel; the kernel is told, once."""
        known = channel.is_mcp and channel.role is not None
        if known and (channel.role == "server" or not _belied(channel, message)):
            return
        if not channel.is_mcp and not (protocol.is_mcp(message) or message.method in _OURS):
            return
        if not channel.is_mcp:
            self._is_mcp(channel)
        role = protocol.reader_role(message) or self._role_of_pair(channel)
        if channel.outgoing is not None:  # its writer may lie about what it is
            role = self._role_of_pair(channel) or role or "client"
        if role is None:
            return
        channel.role = role
        if role == "server":
            self._kernel.set_role(channel.ino, ROLE_MCP | ROLE_TO_SERVER)
            self._watch_answers(channel)
        else:
            known = channel.outgoing is not None or self._asks(channel)
            self._kernel.set_role(channel.ino, ROLE_MCP | (ROLE_TO_CLIENT if known else 0))
            self._watch_requests(channel)

    def _is_mcp(self, channel: Channel) -> None:
        """Only now it is worth the time to look into /proc for who is at the other end."""
        channel.is_mcp = True
        reader = channel.reader.info
        if channel.writer is None:
            writer = self._find_writer(channel.ino, channel.peer_ino, reader)
            if writer is not None:
                channel.writer = self._party(writer)
                channel.conversation = self._conversation(reader, writer)

    def not_mcp(self, channel: Channel) -> None:
        """A line that is no MCP. Where none ever was, the kernel need not look so closely."""
        channel.noise += 1
        if not channel.is_mcp:
            self._kernel.set_role(channel.ino, ROLE_OTHER)

    def reply_fd(self, requests: Channel, read_fd: int) -> int | None:
        """The descriptor that a server writes its answers to; None if that is not certain.

        It is what the client is known to read, or a pipe that the server writes and the client
        reads (not the server's standard error); else standard output, if it reads standard input.
        """
        if requests.role != "server":
            return None
        server = descriptors(requests.reader.info.key.tgid)
        for other in self._channels.values():
            if other.conversation is requests.conversation and other.role == "client":
                for fd, (link, writable) in server.items():
                    if writable and link == link_to(other.ino, other.peer_ino):
                        return fd
        if requests.writer is not None:
            client = descriptors(requests.writer.info.key.tgid)
            read = {link for link, writable in client.values() if not writable}
            read.discard(server.get(_STDERR, ("", False))[0])
            for fd, (link, writable) in server.items():
                if writable and link in read:
                    return fd
        return _STDOUT if read_fd == _STDIN else None

    def quiet(self, channel: Channel) -> bool:
        """Whether this channel has made so much noise that no more of it is worth an event."""
        return channel.noise > _NOISE_MAX

    def _asks(self, channel: Channel) -> bool:
        """Whether the reader has asked the writer something: an answer alone may be made up."""
        return any(each.role == "server" for each in self._others(channel))

    def _others(self, channel: Channel) -> Iterator[Channel]:
        """The other channels between these two."""
        for other in self._channels.values():
            if other.conversation is channel.conversation and other is not channel:
                yield other

    def _role_of_pair(self, channel: Channel) -> Role | None:
        """The other direction knows; else a child that its parent talks to is the server."""
        for other in self._others(channel):
            if other.role:
                return "client" if other.role == "server" else "server"
        if channel.writer is None:
            return None
        writer, reader = channel.writer.info, channel.reader.info
        if any(pid == writer.key.tgid for pid, _ in reader.ancestry):
            return "server"
        if any(pid == reader.key.tgid for pid, _ in writer.ancestry):
            return "client"
        return None

    def _watch_requests(self, answers: Channel) -> None:
        """The other direction of a channel to a client, in case its requests looked like noise."""
        server = answers.writer
        if server is None:
            return
        try:
            target = os.readlink(f"/proc/{server.info.key.tgid}/fd/0")
        except OSError:
            return
        found = INODE.fullmatch(target)
        if found is None:
            return
        ino = int(found[1])
        if ino not in self._channels or not self._channels[ino].is_mcp:
            self._kernel.set_role(ino, ROLE_MCP | ROLE_TO_SERVER)

    def _watch_answers(self, requests: Channel) -> None:
        """The other direction may have been taken for one to a server, by what its writer said.

        Or for one to a client, which nothing but its own answers said until now.
        """
        for other in self._others(requests):
            if other.role == "client" or (other.outgoing is not None and other.role == "server"):
                other.role = "client"
                self._kernel.set_role(other.ino, ROLE_MCP | ROLE_TO_CLIENT)

    def _conversation(self, reader: ProcessInfo, writer: ProcessInfo | None) -> Conversation:
        if writer is None:
            return Conversation()
        pair = frozenset((reader.key, writer.key))
        found = self._conversations.get(pair)
        if found is None:
            found = self._conversations[pair] = Conversation()
            if len(self._conversations) > _CHANNELS_MAX:
                self._conversations.popitem(last=False)
        return found

    def _find_writer(self, ino: int, peer_ino: int, reader: ProcessInfo) -> ProcessInfo | None:
        """The process at the other end. Of several the one that reads from `reader`, if any.

        (A shell that started a server keeps the server's standard output open, too.)
        """
        target = link_to(ino, peer_ino)
        near = [
            other.reader.info.key.tgid
            for other in reversed(self._channels.values())
            if other.writer is not None and other.writer.info is reader
        ]
        near += [pid for pid, _ in reader.ancestry]
        near += [info.key.tgid for info in self._table]
        candidates = dict.fromkeys(pid for pid in near if pid != reader.key.tgid)
        for pid in candidates:
            if has_open(pid, target, writable=not peer_ino):
                return self._info(pid)
        others = (int(name) for name in os.listdir("/proc") if name.isdigit())
        for pid in others:
            if pid in candidates or pid == reader.key.tgid:
                continue
            if has_open(pid, target, writable=not peer_ino):
                return self._info(pid)
        return self._who_was(reader)

    def _reader_of(self, writer: ProcessInfo, readers: Sequence[int]) -> ProcessInfo:
        """Who reads what `writer` writes: of several, the one that it takes requests from.

        Nobody may have that end in a descriptor; then it is who asks it, or started it.
        """
        near = [
            other.writer.info
            for other in reversed(self._channels.values())
            if other.writer is not None and other.reader.info is writer
        ]
        near += [info for pid, _ in writer.ancestry if (info := self._info(pid)) is not None]
        for info in near:
            if info.key.tgid in readers:
                return info
        found = next((info for pid in readers if (info := self._info(pid)) is not None), None)
        return found or (near[0] if near else writer)

    def _who_was(self, reader: ProcessInfo) -> ProcessInfo | None:
        """The likely writer, when nobody has that end any more.

        Who read from `reader`; else who started it, as a client starts its server.
        """
        for other in reversed(self._channels.values()):
            if other.writer is not None and other.writer.info is reader:
                return other.reader.info
        parent = self._table.get(reader.parent) if reader.parent is not None else None
        return parent if parent is not None and parent.session == reader.session else None

    def _party(self, info: ProcessInfo) -> Party:
        seen = read_process(info.key.tgid)
        if seen is None or not same_start(seen.key, info.key):
            return Party(info)
        if seen.exe != info.exe:
            self._table.add(seen)  # brings `info` up to date
        return Party(info, seen)

    def _info(self, pid: int) -> ProcessInfo | None:
        known = self._table.by_pid(pid)
        if known is not None:
            return known
        read = read_process(pid)
        return None if read is None else self._table.add(read)


def _belied(channel: Channel, message: Message) -> bool:
    """Whether what was taken for a client receives what only a server does."""
    asked = channel.outgoing is None and message.method is not None
    return asked and protocol.reader_role(message) == "server"


def program_name(info: ProcessInfo) -> str:
    """What a server is called in rules: its package or script, not its interpreter.

    `node .../node_modules/@scope/name/dist/index.js` is `@scope/name`, `python -m mcp_server_git`
    is `mcp-server-git`, `python /x/mcp-server-time` is `mcp-server-time`.
    """
    for position, argument in enumerate(info.argv[1:6], 1):
        if argument in {"-m", "--module"} and position + 1 < len(info.argv):
            return info.argv[position + 1].split(".")[0].replace("_", "-")
        if argument.startswith("-"):
            continue
        if "node_modules/" in argument:
            parts = argument.rpartition("node_modules/")[2].split("/")
            if parts[0] == ".bin" and len(parts) > 1:
                return parts[1]
            return "/".join(parts[:2]) if parts[0].startswith("@") else parts[0]
        if _is_interpreter(info.exe):
            return _stem(argument)
        break
    return _stem(info.exe) or info.comm


def _is_interpreter(exe: str) -> bool:
    name = exe.rpartition("/")[2]
    return name.startswith(("python", "node", "bun", "deno", "ruby", "perl", "java", "sh", "bash"))


def _stem(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix in {"py", "js", "mjs", "cjs", "ts", "sh", "rb", "jar"} else name
