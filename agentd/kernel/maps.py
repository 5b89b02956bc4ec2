"""The kernel's maps in the words of the domain: labels, holds, roles, rules, losses."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from agentd.kernel.labelled import Labelled
from agentd.kernel.libbpf import BPF_EXIST, KernelError, Map
from agentd.kernel.net_wire import MAX_SOCKET_RULES, SOCKET_RULE, SOCKET_RULES_BANK
from agentd.kernel.waits import Waits
from agentd.kernel.wire import (
    FILE_ID,
    HOLD,
    HOLD_DECIDED,
    HOLD_STATE_OFFSET,
    LABEL,
    LABEL_RESERVED,
    MAX_WORKLOADS,
    NAME,
    NAME_LEN,
    REC_DATA,
    REC_FORK,
    SETTINGS,
    TOTAL_KEY,
    U32,
    U64,
    WORKLOAD,
    WRITTEN,
)

_ENOSPC: Final = {7, 28}  # E2BIG, ENOSPC: how a full map answers


class LabelValue(NamedTuple):
    """A process's label, as in `struct label`."""

    start_ns: int
    session: int
    workload: int


class HoldValue(NamedTuple):
    """One held task, as in `struct hold`."""

    id: int
    time_ns: int
    start_ns: int
    tgid: int
    tid: int
    session: int
    workload: int
    kind: int
    state: int
    syscall: int
    ino: int
    peer_ino: int
    address: int
    length: int
    iovcnt: int
    fd: int
    dev: int
    access: int
    cpu: int
    pad: int


class WrittenValue(NamedTuple):
    """Bytes that a channel has taken, and how many writes to it have not returned yet."""

    bytes: int
    under_way: int


class SocketRuleValue(NamedTuple):
    """One line of a workload's network rules; IPv4 networks in their mapped form."""

    address: bytes
    prefix: int
    protocol: int
    port_low: int
    port_high: int
    rule: int
    flags: int
    """RULE_ flags."""


class KernelMaps:
    """Typed access to the shared maps."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps = dict(maps)
        self.labels = self._maps["labels"]
        self._labelled = Labelled(self._maps["labelled"].fd)
        self.holds = self._maps["holds"]
        self.waits = Waits(self._maps["waits"].fd)
        self.events = self._maps["events"]
        self.hold_ring = self._maps["hold_ring"]

    # Labels

    def label(self, tgid: int, start_ns: int, session: int, workload: int) -> None:
        """Labels a process; what it forks from now on inherits it."""
        self.labels.put(U32.pack(tgid), LABEL.pack(start_ns, session, workload, 0))
        self._labelled.mark(tgid)

    def unlabel(self, tgid: int) -> None:
        """Takes a label away."""
        self.labels.delete(U32.pack(tgid))

    def label_of(self, tgid: int) -> LabelValue | None:
        """The label of a process, None if it has none."""
        value = self.labels.get(U32.pack(tgid))
        return None if value is None else LabelValue(*LABEL.unpack(value)[:3])

    def labelled(self) -> list[tuple[int, LabelValue]]:
        """Every labelled process: (tgid, label)."""
        return [
            (U32.unpack(key)[0], LabelValue(*LABEL.unpack(value)[:3]))
            for key, value in self.labels.items()
            if not U32.unpack(key)[0] & LABEL_RESERVED
        ]

    # Holds

    def is_held(self, hold: HoldValue) -> bool:
        """False once somebody (the supervisor, an exit) has resolved the hold."""
        return self.holds.get(U64.pack(hold.id)) is not None

    def held(self) -> list[HoldValue]:
        """Every hold that is not resolved."""
        return [HoldValue(*HOLD.unpack(value)) for _, value in self.holds.items()]

    def now(self, hold: HoldValue) -> HoldValue:
        """The hold as it is by now: a thread that was woken waits in another slot."""
        raw = self.holds.get(U64.pack(hold.id))
        return HoldValue(*HOLD.unpack(raw)) if raw else hold

    def mark_decided(self, hold: HoldValue) -> bool:
        """Says that the verdict is carried out but for the SIGCONT. False: already resolved."""
        raw = HOLD.pack(*hold)
        at = HOLD_STATE_OFFSET
        value = raw[:at] + U32.pack(HOLD_DECIDED) + raw[at + U32.size :]
        try:
            self.holds.put(U64.pack(hold.id), value, BPF_EXIST)
        except KernelError:
            return False
        return True

    def drop_hold(self, hold: HoldValue) -> None:
        """Forgets a hold."""
        self.holds.delete(U64.pack(hold.id))

    # Channels

    def set_role(self, ino: int, flags: int) -> None:
        """What user space has learnt of a channel: ROLE_ flags."""
        self._maps["roles"].put(U64.pack(ino), U32.pack(flags))

    def role_of(self, ino: int) -> int:
        """ROLE_ flags of a channel; 0 if nothing is known of it."""
        value = self._maps["roles"].get(U64.pack(ino))
        return int(U32.unpack(value)[0]) if value else 0

    def written(self, ino: int) -> WrittenValue:
        """What a channel has taken of writes that were judged."""
        value = self._maps["written"].get(U64.pack(ino))
        return WrittenValue(*WRITTEN.unpack(value)[:2]) if value else WrittenValue(0, 0)

    def leave_to_reader(self, ino: int) -> None:
        """No write to the channel is held any more: its reader is."""
        self._maps["written"].put(U64.pack(ino), WRITTEN.pack(0, 0, 1))

    # Policy

    def ignore_program(self, program: bytes, until_ns: int) -> None:
        """No exec of it by an unlabelled process is told until then (CLOCK_BOOTTIME).

        `program` is a `struct program` as it came in a candidate record.
        """
        self._maps["dull_programs"].put(program, U64.pack(until_ns))

    def set_workload(self, number: int, flags: int, rules: list[SocketRuleValue]) -> None:
        """What the kernel decides for a workload: HOLDS_ and TELLS_ flags and network rules.

        The rules are written beside those in force, so that at no moment one is missing. At most
        128 network rules; more raise ValueError, nothing is changed then.
        """
        if number >= MAX_WORKLOADS:
            raise ValueError(f"workload number {number}: the kernel side has {MAX_WORKLOADS}")
        if len(rules) > MAX_SOCKET_RULES:
            raise ValueError(f"{len(rules)} network rules; the kernel side has {MAX_SOCKET_RULES}")
        table = self._maps["socket_rules"]
        conf = self._maps["workloads"]
        key = U32.pack(number)
        bank = ~WORKLOAD.unpack(conf.get(key) or bytes(8))[1] & SOCKET_RULES_BANK
        start = (number + (MAX_WORKLOADS if bank else 0)) * MAX_SOCKET_RULES
        for index, rule in enumerate(rules):
            table.put(U32.pack(start + index), SOCKET_RULE.pack(*rule))
        conf.put(key, WORKLOAD.pack(flags, len(rules) | bank))

    def set_names(self, wanted: Mapping[tuple[int, bytes], int]) -> None:
        """Replaces the name filter: (kind, text) -> flags. New names come before old ones go."""
        names = self._maps["names"]
        fresh = {
            NAME.pack(kind, text[: NAME_LEN - 1]): flags for (kind, text), flags in wanted.items()
        }
        for key, flags in fresh.items():
            names.put(key, U32.pack(flags))
        for key in list(names.keys()):
            if key not in fresh:
                names.delete(key)

    def watch_file(self, ino: int, dev: int, flags: int) -> bool:
        """Watches an inode (numbers as in kernel.inodes); False if there is no room."""
        try:
            self._maps["files"].put(FILE_ID.pack(ino, dev, 0), U32.pack(flags))
        except KernelError as error:
            if error.errno in _ENOSPC:
                return False
            raise
        return True

    def unwatch_file(self, ino: int, dev: int) -> None:
        """It is watched no more; nothing happens if it was not."""
        self._maps["files"].delete(FILE_ID.pack(ino, dev, 0))

    def forget_files(self) -> None:
        """No inode is watched any more."""
        files = self._maps["files"]
        for key in list(files.keys()):
            files.delete(key)

    def settle_moves(self, session: int, time_ns: int) -> None:
        """All that the session has renamed or linked up to then (CLOCK_BOOTTIME) is watched."""
        self._maps["settled"].put(U32.pack(session), U64.pack(time_ns))

    def set_settings(self, flags: int, generation: int, patience_us: int) -> None:
        """MASK_ flags, and the number of the policy."""
        self._put_settings(flags, generation, patience_us, self._settings()[3])

    def set_quiet(self, quiet_us: int) -> None:
        """After how many microseconds without records one wakes the engine at once."""
        self._put_settings(*self._settings()[:3], quiet_us)

    def generation(self) -> int:
        """The number that `set_settings` gave last; 0 before."""
        return self._settings()[1]

    def _settings(self) -> tuple[int, ...]:
        value = self._maps["settings"].get(U32.pack(0))
        return SETTINGS.unpack(value) if value else (0, 0, 0, 0)

    def _put_settings(self, *fields: int) -> None:
        self._maps["settings"].put(U32.pack(0), SETTINGS.pack(*fields))

    # Counts

    def take_totals(self, session: int) -> dict[int, int]:
        """How many events of each kind of record a session has made; they are forgotten here."""
        totals = self._maps["totals"]
        found = {}
        for kind in range(REC_FORK, REC_DATA + 1):
            key = TOTAL_KEY.pack(session, kind)
            value = totals.get(key)
            if value is not None:
                found[kind] = U64.unpack(value)[0]
                totals.delete(key)
        return found

    def losses(self, numbers: Iterable[int]) -> dict[tuple[str, int], int]:
        """Counts since load: ("ring" | "hold", workload number) -> records or holds that failed."""
        counts: dict[tuple[str, int], int] = {}
        for source, name in (("ring", "losses"), ("hold", "failed_holds")):
            for number in numbers:
                value = self._maps[name].get(U32.pack(number))
                if value and (count := U64.unpack(value)[0]):
                    counts[source, number] = count
        return counts
