"""What labelled processes do with sockets: connects, binds, accepts."""

import os
import socket
from typing import Any

from agentd.daemon.fold import Fold
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.places import given_path, path_of, true_path, unix_path
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts
from agentd.kernel.wire import SOCKET, SOCKET_ACCEPT, SOCKET_BIND, SOCKET_BLOCKED
from agentd.workloads.identity import ProcessInfo, readable
from agentd.workloads.sessions import Session

_EPERM = -1
_FAMILIES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6", socket.AF_UNIX: "unix"}
_PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp", 132: "sctp", 262: "mptcp"}
_CLASSES = {SOCKET_BIND: "network.bind", SOCKET_ACCEPT: "network.accept"}
_MAPPED = bytes(10) + b"\xff\xff"
_BURST = 1


class NetworkActivity:
    """Turns records of sockets into events and verdicts."""

    def __init__(
        self, labelling: Labelling, policy: PolicyInForce, verdicts: Verdicts, reporter: Reporter
    ) -> None:
        self._labelling = labelling
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter
        self._addresses: dict[bytes, str] = {}
        self._fold = Fold(_BURST)

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._fold.forget(session.number)

    def on_socket(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """A call on a socket, done, failed, or refused by the kernel on behalf of a rule."""
        fields = SOCKET.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        op, _, _, _, result, rule = fields[10:16]
        network = self._describe(fields[10:], record[SOCKET.size :])
        cls = _CLASSES.get(op, "network.connect")
        described = None
        if op == SOCKET_BLOCKED:
            described = self._blocked(cls, session, info, network, rule)
        elif cls == "network.connect" and result == _EPERM and self._labelling.guarded(session):
            return  # the record of the refusal has told it
        elif self._policy.evaluator.wants(cls, session.workload):
            decision = self._verdicts.judge(cls, session, info, network)
            described = self._verdicts.after_effect(decision, session, info)
        if described is None and count == 1:
            key = (op, result, *(network.get(k) for k in ("address", "port", "path", "protocol")))
            if op == SOCKET_ACCEPT:
                key = (op, network.get("address"), network.get("path"))
            count = self._fold.count(session.number, key)
            if not count:
                return
        self._reporter.session_event(
            cls, time_ns, session, info, {"network": network}, described, count
        )

    def _blocked(
        self, cls: str, session: Session, info: ProcessInfo, network: dict[str, Any], number: int
    ) -> dict[str, Any]:
        """The event's decision; the kernel has refused, whatever the rules say by now."""
        rule = self._policy.net_rule(number)
        decision = self._verdicts.judge(cls, session, info, network)
        if decision is None:
            return {
                "verdict": "deny",
                "rules": [rule],
                "reason": "refused by a rule that has been replaced since",
                "tier": self._reporter.tier,
                "before_effect": True,
                "outcome": "blocked",
            }
        described = self._reporter.describe(
            decision, session, before_effect=True, outcome="blocked"
        )
        described["rules"] = list(dict.fromkeys([rule, *decision.rules]))
        return described

    def _describe(self, fields: tuple[Any, ...], real: bytes) -> dict[str, Any]:
        """The `network` object; an IPv4 address used through an IPv6 socket is an IPv4 address."""
        op, family, protocol, port, result, _, address, path_len, path, real_len, relative = fields
        if family == socket.AF_UNIX:
            network: dict[str, Any] = {
                "family": "unix",
                "protocol": "unix",
                "path": unix_path(path[:path_len]),
            }
            if real_len:
                found = path_of(real[:real_len])
                if relative:
                    given = path[:path_len].split(b"\0", 1)[0]
                    found = readable(true_path(given_path(real[:real_len], given)))
                if found != network["path"]:
                    network |= {"path": found, "given": network["path"]}
        else:
            if address.startswith(_MAPPED):
                family = socket.AF_INET
            network = {
                "family": _FAMILIES.get(family, str(family)),
                "protocol": _PROTOCOLS.get(protocol, str(protocol)),
                "address": self._address(address),
                "port": port,
            }
        if result:
            network["error"] = os.strerror(-result)
        network["direction"] = "inbound" if op == SOCKET_ACCEPT else "outbound"
        return network

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
