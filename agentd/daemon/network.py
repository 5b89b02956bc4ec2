"""What labelled processes do with sockets: connects, binds, accepts."""

import os
import socket
from errno import EAGAIN
from typing import Any

from agentd.daemon import endpoints
from agentd.daemon.fold import Fold
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts
from agentd.kernel.wire import (
    SOCKET,
    SOCKET_ACCEPT,
    SOCKET_BIND,
    SOCKET_BIND_BLOCKED,
    SOCKET_BLOCKED,
    SOCKET_CREATE,
    SOCKET_CREATE_BLOCKED,
)
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

_EPERM = -1
_CLASSES = {
    SOCKET_BIND: "network.bind",
    SOCKET_BIND_BLOCKED: "network.bind",
    SOCKET_ACCEPT: "network.accept",
    SOCKET_CREATE: "network.socket",
    SOCKET_CREATE_BLOCKED: "network.socket",
}
_BLOCKED = frozenset({SOCKET_BLOCKED, SOCKET_BIND_BLOCKED, SOCKET_CREATE_BLOCKED})
_CREATED = frozenset({SOCKET_CREATE, SOCKET_CREATE_BLOCKED})
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
        self._fold = Fold(_BURST)

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._fold.forget(session.number)

    def on_socket(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """A call on a socket, done, failed, or refused by the kernel on behalf of a rule."""
        fields = SOCKET.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        op, _, _, _, result, rule = fields[10:16]
        network = _describe(fields[10:], record[SOCKET.size :])
        cls = _CLASSES.get(op, "network.connect")
        described = None
        if op in _BLOCKED:
            described = self._blocked(cls, session, info, network, rule, judged=result != -EAGAIN)
        elif cls == "network.connect" and result == _EPERM and self._labelling.guarded(session):
            return  # the record of the refusal has told it
        elif self._policy.evaluator.wants(cls, session.workload):
            decision = self._verdicts.judge(cls, session, info, network)
            described = self._verdicts.after_effect(decision, session, info)
        if described is None and count == 1:
            get = network.get
            key: tuple[object, ...] = (op, get("address"), get("path"))
            if op != SOCKET_ACCEPT:
                key += (result, get("family"), get("protocol"), get("port"))
            count = self._fold.count(session.number, key)
            if not count:
                return
        self._reporter.session_event(
            cls, time_ns, session, info, {"network": network}, described, count
        )

    def _blocked(
        self,
        cls: str,
        session: Session,
        info: ProcessInfo,
        network: dict[str, Any],
        number: int,
        *,
        judged: bool,
    ) -> dict[str, Any]:
        """The event's decision; the kernel has refused, whatever the rules say by now.

        Not `judged`: there was nobody to ask, and the workload's `on_failure` has refused.
        """
        rule = self._policy.net_rule(number)
        decision = self._verdicts.judge(cls, session, info, network) if judged else None
        if decision is None:
            gone = "refused by a rule that has been replaced since"
            alone = "it could not be judged in time; the workload's on_failure refused it"
            return {
                "verdict": "deny",
                "rules": [rule],
                "reason": gone if judged else alone,
                "tier": self._reporter.tier,
                "before_effect": True,
                "outcome": "blocked",
            }
        if decision.kill_scope == "session" and session.posture == "enforce":
            self._verdicts.kill(decision, session, info)
        described = self._reporter.describe(
            decision, session, before_effect=True, outcome="blocked"
        )
        described["rules"] = list(dict.fromkeys([rule, *decision.rules]))
        return described


def _describe(fields: tuple[Any, ...], real: bytes) -> dict[str, Any]:
    """The `network` object of `struct socket_record`."""
    op, family, protocol, port, result, _, address, path_len, path, real_len, relative = fields
    if op in _CREATED:
        network = endpoints.kind(family, port, protocol)
    elif family == socket.AF_UNIX:
        network = endpoints.given_unix(path[:path_len], real[:real_len], relative=bool(relative))
    else:
        network = endpoints.internet(family, protocol, address, port)
    if result and op not in _BLOCKED:
        network["error"] = os.strerror(-result)
    if op not in _CREATED:
        network["direction"] = "inbound" if op == SOCKET_ACCEPT else "outbound"
    return network
