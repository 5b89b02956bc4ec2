"""What labelled processes do besides MCP: execs, exits, files, sockets."""

import os
import socket
from typing import Any

from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.report import Reporter, describe
from agentd.daemon.verdicts import Verdicts
from agentd.kernel.maps import HoldValue
from agentd.kernel.sensor import syscall_numbers
from agentd.kernel.wire import (
    ACCESS_WRITE,
    CHANGE,
    EXEC,
    EXIT,
    FORK,
    OPEN,
    SOCKET,
    SOCKET_ACCEPT,
    SOCKET_BIND,
    SOCKET_BLOCKED,
)
from agentd.workloads.identity import ProcessInfo, ProcessKey, bounded_argv, readable
from agentd.workloads.procfs import read_process
from agentd.workloads.sessions import Session

_EPERM = -1
_FAMILIES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6", socket.AF_UNIX: "unix"}
_PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp", 132: "sctp", 262: "mptcp"}
_SOCKET_CLASSES = {SOCKET_BIND: "network.bind", SOCKET_ACCEPT: "network.accept"}
_MAPPED = bytes(10) + b"\xff\xff"
_DELETES = frozenset({"unlink", "unlinkat", "rmdir"})
_FORK_SHOWN = 1


class Activity:
    """Turns records into events and verdicts."""

    def __init__(
        self, labelling: Labelling, policy: PolicyInForce, verdicts: Verdicts, reporter: Reporter
    ) -> None:
        self._labelling = labelling
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter
        self._calls = {number: name for name, number in syscall_numbers().items()}
        self._addresses: dict[bytes, str] = {}

    # Processes

    def on_fork(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        fields = FORK.unpack(record)
        time_ns, count = fields[3], fields[8]
        child_start_ns, child = fields[10], fields[11]
        key = ProcessKey(child, child_start_ns)
        entered = self._labelling.table.fork(info.key, key)
        if entered.session is None:
            entered.session = session.number
        self._labelling.registry.add_process(session, key)
        if count <= _FORK_SHOWN or not count & (count - 1):
            self._reporter.session_event(
                "process.fork", time_ns, session, info, {"fork": {"child": child}}, None, count
            )

    def on_exec(self, record: bytes, session: Session, key: ProcessKey) -> None:
        fields = EXEC.unpack_from(record)
        time_ns, uid, comm = fields[3], fields[7], fields[9]
        parent_start_ns, _, parent, gid, exe_len, filename_len, args_len, _ = fields[10:]
        at = EXEC.size
        exe = path_of(record[at : at + exe_len])
        at += exe_len
        filename = readable(record[at : at + filename_len].rstrip(b"\0"))
        at += filename_len
        argv = bounded_argv(record[at : at + args_len])
        table = self._labelling.table
        if table.get(key) is None:
            table.fork(ProcessKey(parent, parent_start_ns), key)
        info = table.exec(key, exe, argv, readable(comm.rstrip(b"\0")), uid, gid)
        info.session = session.number
        self._labelling.registry.add_process(session, key)
        if session.posture == "enforce" and self._policy.holds_exec(
            session.workload, exe, filename
        ):
            return  # it is stopped: `on_exec_hold` judges and tells
        subject = {"exe": exe, "filename": filename, "argv": list(argv)}
        decision = self._verdicts.judge("process.exec", session, subject)
        described = self._verdicts.after_effect(decision, session, info)
        self._reporter.session_event(
            "process.exec", time_ns, session, info, {"exec": subject}, described
        )

    def on_exec_hold(self, hold: HoldValue, session: Session, info: ProcessInfo) -> None:
        """A process that has been stopped before its new program's first instruction."""
        fresh = read_process(hold.tgid)
        if fresh is not None and fresh.exe:
            # Nobody can have changed it: the program has not run yet.
            info = self._labelling.table.exec(
                info.key, fresh.exe, fresh.argv, fresh.comm, fresh.uid, fresh.gid
            )
        subject = {
            "exe": info.exe,
            "filename": info.argv[0] if info.argv else info.exe,
            "argv": list(info.argv),
        }
        decision = self._verdicts.judge("process.exec", session, subject)
        self._verdicts.settle("process.exec", {"exec": subject}, decision, hold, session, info)

    def on_exit(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        fields = EXIT.unpack(record)
        time_ns, code = fields[3], fields[10]
        ended = {"signal": code & 0x7F} if code & 0x7F else {"code": code >> 8 & 0xFF}
        self._reporter.session_event("process.exit", time_ns, session, info, {"exit": ended})
        self._labelling.table.exit(info.key, time_ns)
        last = self._labelling.registry.remove_process(info.key)
        if last is not None:
            self._labelling.ended(last)

    # Files

    def on_open(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        fields = OPEN.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        ino, device, _, access, path_len = fields[10:]
        path = path_of(record[OPEN.size : OPEN.size + path_len])
        decision = self._verdicts.judge_open(session, path, access)
        parts = {"file": open_parts(path, access, ino, device)}
        described = self._verdicts.after_effect(decision, session, info)
        self._reporter.session_event("file.open", time_ns, session, info, parts, described, count)

    def on_open_hold(self, hold: HoldValue, session: Session, info: ProcessInfo) -> None:
        """A process that has opened a watched file and has not got the descriptor yet."""
        try:
            path = os.readlink(f"/proc/{hold.tgid}/fd/{hold.fd}").removesuffix(" (deleted)")
        except OSError:
            path = ""
        path = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        parts = {"file": open_parts(path, hold.access, hold.ino, hold.dev)}
        decision = self._verdicts.judge_open(session, path, hold.access)
        self._verdicts.settle("file.open", parts, decision, hold, session, info)

    def on_change(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        fields = CHANGE.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        op, *lengths, _ = fields[10:]
        places = []
        at = CHANGE.size
        for base_len, given_len in (lengths[:2], lengths[2:]):
            base = path_of(record[at : at + base_len]) if base_len else "/"
            at += base_len
            given = readable(record[at : at + given_len].rstrip(b"\0"))
            at += given_len
            places.append(os.path.normpath(os.path.join(base, given)) if given else "")
        name = self._calls.get(op, str(op))
        file: dict[str, Any] = {"path": places[0], "op": "delete" if name in _DELETES else "rename"}
        cls = "file.delete" if name in _DELETES else "file.rename"
        if places[1]:
            file["to"] = places[1]
            if name.startswith("link"):
                file["op"] = "link"
        elif name == "truncate":
            file |= {"op": "truncate", "access": "write"}
            cls = "file.open"
        decision = self._verdicts.judge(cls, session, file)
        described = self._verdicts.after_effect(decision, session, info)
        self._reporter.session_event(cls, time_ns, session, info, {"file": file}, described, count)

    # Sockets

    def on_socket(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        fields = SOCKET.unpack(record)
        time_ns, count = fields[3], fields[8]
        op, family, protocol, port, result, rule, address, path_len, path = fields[10:]
        network: dict[str, Any] = {
            "family": _FAMILIES.get(family, str(family)),
            "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        }
        if family == socket.AF_UNIX:
            network |= {"protocol": "unix", "path": unix_path(path[:path_len])}
        else:
            network |= {"address": self._address(address), "port": port}
        if result:
            network["error"] = os.strerror(-result)
        cls = _SOCKET_CLASSES.get(op, "network.connect")
        network["direction"] = "inbound" if op == SOCKET_ACCEPT else "outbound"
        described = None
        if op == SOCKET_BLOCKED:
            decision = self._verdicts.judge(cls, session, network)
            if decision is None:
                return
            described = describe(decision, session, before_effect=True, outcome="blocked")
            described["rules"] = list(dict.fromkeys([self._policy.net_rule(rule), *decision.rules]))
        elif cls == "network.connect" and result == _EPERM and self._labelling.guarded(session):
            return  # the record of the refusal has told it
        elif self._policy.evaluator.wants(cls, session.workload):
            described = self._verdicts.after_effect(
                self._verdicts.judge(cls, session, network), session, info
            )
        self._reporter.session_event(
            cls, time_ns, session, info, {"network": network}, described, count
        )

    def _address(self, packed: bytes) -> str:
        text = self._addresses.get(packed)
        if text is None:
            if packed.startswith(_MAPPED):
                text = socket.inet_ntop(socket.AF_INET, packed[12:])
            else:
                text = socket.inet_ntop(socket.AF_INET6, packed)
            if len(self._addresses) > 4096:
                self._addresses.clear()
            self._addresses[packed] = text
        return text


def path_of(components: bytes) -> str:
    """A path from its names, leaf first, each ended by NUL."""
    names = components.split(b"\0")
    names.pop()
    names.reverse()
    return readable(b"/" + b"/".join(names))


def unix_path(raw: bytes) -> str:
    """A Unix socket's address; an abstract one starts with `@`."""
    if raw[:1] == b"\0":
        return "@" + readable(raw[1:].rstrip(b"\0"))
    return readable(raw.split(b"\0", 1)[0])


def open_parts(path: str, access: int, ino: int, device: int) -> dict[str, Any]:
    """The `file` object of an open event."""
    return {
        "path": path,
        "op": "open",
        "access": "write" if access & ACCESS_WRITE else "read",
        "ino": ino,
        "dev": f"{device >> 20}:{device & 0xFFFFF}",
    }
