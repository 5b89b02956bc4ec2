"""The engine's loop: one thread. Holds first, then telemetry in slices, then everything else."""

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agentd import __version__, paths
from agentd.daemon import channel
from agentd.daemon.activity import Activity
from agentd.daemon.calls import Calls
from agentd.daemon.channels import Channels
from agentd.daemon.control import Control
from agentd.daemon.cutting import Cutting
from agentd.daemon.dispatch import Dispatch
from agentd.daemon.inforce import PolicyInForce, compile_policy
from agentd.daemon.keeping import open_journal
from agentd.daemon.labelling import Labelling
from agentd.daemon.loading import Loading
from agentd.daemon.log import log
from agentd.daemon.messages import Messages
from agentd.daemon.operations import Operations
from agentd.daemon.ownplaces import own_places
from agentd.daemon.pace import Pace
from agentd.daemon.reloads import Reloads
from agentd.daemon.report import Clock, Reporter
from agentd.daemon.settings import Loaded, read_loaded
from agentd.daemon.standin import StandIn
from agentd.daemon.state import KILLED, State
from agentd.daemon.terminal import Terminal
from agentd.daemon.unheard import Unheard
from agentd.daemon.verdicts import Verdicts
from agentd.daemon.writeholds import WriteHolds
from agentd.enforce.approvals import Approvals
from agentd.enforce.stops import Stops
from agentd.errors import AgentdError, ConfigErrors
from agentd.events.journal import FlushStatus
from agentd.kernel.decisions import Decisions
from agentd.kernel.heartbeat import ENGINE, Heartbeat
from agentd.kernel.libbpf import Map, trim_heap
from agentd.kernel.maps import KernelMaps
from agentd.kernel.tier import OBSERVE
from agentd.workloads.processes import ProcessTable
from agentd.workloads.sessions import SessionRegistry

EXIT_FAILED = 1
EXIT_CONFIG = 78
_SLICE = 64


class Engine:
    """Everything the engine process does, wired together."""

    def __init__(
        self,
        supervisor: socket.socket,
        loaded: Loaded,
        load_arguments: list[str],
        *,
        foreground: bool,
    ) -> None:
        self._supervisor = supervisor
        self._settings = loaded.settings
        for text in loaded.warnings:
            log(text)
        channel.send(supervisor, {"op": "config", "config": loaded.config})
        self._first_policy = compile_policy(loaded.policy)  # while the programs are being loaded
        heard = channel.receive(supervisor)
        if heard is None:
            raise AgentdError("the supervisor is gone")
        message, fds = heard
        listener_fd, self._publisher_wake, *map_fds = fds
        maps = {
            name: Map(name, fd, *sizes)
            for (name, *sizes), fd in zip(message["maps"], map_fds, strict=True)
        }
        self._restarted = bool(message["restart"])
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        self._kernel = KernelMaps(maps)
        self._heartbeat = Heartbeat(maps["enforcing"], ENGINE)
        self._stand_in = StandIn(maps)
        boot = paths.boot_id()
        self._state = State(paths.state_file(self._settings.state_dir))
        self._saved = self._read_state()
        self._journal = open_journal(
            self._settings, begun=self._saved.get("sessions", {}).get("boot") == boot
        )
        self._reporter = Reporter(self._journal, Clock())
        if foreground:
            self._reporter.listen(Terminal(sys.stdout).show)
        self._registry = SessionRegistry.from_state(self._saved.get("sessions"), boot)
        self._labelling = Labelling(
            self._kernel, self._registry, ProcessTable(), self._reporter, supervisor
        )
        families = message["families"]
        self._reporter.tier = message["tier"]
        self._decisions = Decisions(maps) if families["files"] != OBSERVE else None
        self._labelling.guards_needed = self._decisions is None or families["network"] == OBSERVE
        self._policy = PolicyInForce(
            self._kernel,
            self._registry,
            self._reporter,
            self._settings.hold_wait_us,
            self._decisions,
            own_places(loaded.config, loaded.directories, load_arguments)
            if self._decisions
            else [],
            frozenset(message["hooks"]),
            sockets=families["network"] != OBSERVE,
        )
        for family, hooks in message["missing"].items():
            log(f"this kernel has no hook {', '.join(hooks)}; {family} does without")
        self._approvals = Approvals()
        self._approvals.continue_after(self._saved.get("holds", 0))
        stops = Stops(self._kernel)
        verdicts = self._verdicts = Verdicts(
            self._kernel, stops, self._approvals, self._policy, self._reporter
        )
        channels = Channels(self._kernel, self._labelling.table)
        messages = Messages(
            self._labelling,
            channels,
            stops,
            self._approvals,
            self._policy,
            verdicts,
            self._reporter,
        )
        activity = Activity(self._labelling, self._policy, verdicts, self._reporter)
        calls = Calls(self._kernel, self._decisions, self._policy, verdicts, self._reporter)
        writes = WriteHolds(
            self._kernel, self._decisions, channels, messages, stops, self._reporter
        )
        self._dispatch = Dispatch(
            self._kernel,
            self._labelling,
            stops,
            self._approvals,
            messages,
            activity,
            calls,
            writes,
            self._settings.hold_linger_us,
        )
        self._dispatch.beat, messages.beat, self._journal.between = (
            self._heartbeat.beat,
            self._heartbeat.beat,
            self._dispatch.glance,
        )
        listener = socket.socket(fileno=listener_fd)
        self._control = Control(
            listener, self._settings.control_group, self._kernel, self._reporter
        )
        self._cutting = Cutting(self._kernel, self._labelling, verdicts, self._reporter)
        self._reloads = Reloads(load_arguments, loaded, self._policy, self._labelling.own)
        self._operations = Operations(
            self._control,
            self._kernel,
            self._labelling,
            self._policy,
            self._approvals,
            self._journal,
            self._dispatch,
            self._reloads,
            self._reporter,
        )
        self._unheard = Unheard(
            self._kernel, self._labelling, self._dispatch, self._policy, self._reporter
        )
        self._records_before = self._records_trimmed = 0

    def start(self) -> None:
        """Policy, sessions from before a restart, existing processes; then READY."""
        self._labelling.prepare = self._policy.prepare
        self._labelling.persist = self._verdicts.persist = self._policy.persist = self._save
        self._approvals.persist = self._save
        self._policy.look_at_opens = self._labelling.look_at_opens
        self._policy.meanings = self._saved.get("path-meanings", [[], []])
        if self._restarted:  # what was lost while there was no engine is told, too
            self._unheard.restore(self._saved.get("losses", ()))
        if self._saved.get("running"):
            self._reporter.daemon_event("loss", {"loss": KILLED})
        self._save()
        self._policy.use(self._first_policy)
        self._labelling.selectors = self._policy.selectors
        if self._restarted:
            self._labelling.restore()
        else:
            self._labelling.resume()
        answer = self._labelling.ask_supervisor({"op": "take-over"})
        for released in answer["released"]:
            session = self._registry.by_number(released["session"])
            if session is not None:
                info = self._labelling.table.by_pid(released["tgid"])
                self._reporter.released(released, session, info)
        if len(self._policy.selectors) or len(self._registry):
            self._labelling.discover()
        self._reporter.daemon_event(
            "daemon.start",
            {"daemon": {"version": __version__, "pid": os.getpid(), "tier": self._reporter.tier}},
        )
        self._save()
        gc.collect()
        gc.freeze()
        trim_heap()
        channel.send(self._supervisor, {"op": "ready"})

    def run(self) -> None:
        """Until SIGTERM, or until the supervisor is gone."""
        poll = select.epoll()
        poll.register(self._kernel.hold_ring.fd, select.EPOLLIN)
        # Told once of each wake-up: what is put off would end every wait else.
        poll.register(self._kernel.events.fd, select.EPOLLIN | select.EPOLLET)
        poll.register(self._dispatch.anticipation.fileno(), select.EPOLLIN | select.EPOLLET)
        poll.register(self._control.listener.fileno(), select.EPOLLIN)
        poll.register(self._supervisor.fileno(), select.EPOLLIN)
        poll.register(self._wake_read, select.EPOLLIN)
        pace = Pace(self._dispatch, self._journal, self._tells_soon, self._settings.flush_ms)
        while not self._stopping:
            wait_s = 0.0 if self._reloads.compiled else pace.wait_s()
            self._heartbeat.beat()
            self._heartbeat.sleeps()
            ready = poll.poll(0.0 if self._dispatch.has_holds() else wait_s)
            self._heartbeat.wakes()
            self._dispatch.glance()
            for fd, what in ready:
                self._ready(poll, fd, what)
            self._dispatch.linger()
            if self._dispatch.puts_off():
                continue
            soon = self._tells_soon()
            self._dispatch.expect(soon=soon)
            self._dispatch.placement.stand(behind=not soon)
            self._take_in(pace)
            self._dispatch.placement.stand(behind=False)
            for waiting in self._control.backlogged():
                poll.modify(waiting, select.EPOLLOUT)

    def _take_in(self, pace: Pace) -> None:
        """What has been told, what is due."""
        self._dispatch.drain(_SLICE)
        if self._reloads.turn():
            self._labelling.selectors = self._policy.selectors
            self._cutting.start()
        if pace.flush_is_due():
            self._flush()
        if (turn := pace.chores_due()) is not None:
            self._housekeeping(turn)

    def close(self) -> None:
        """What was recorded is written; held tasks are the supervisor's from here on."""
        self._dispatch.close()
        self._reporter.daemon_event("daemon.stop", {"daemon": {"pid": os.getpid()}})
        self._save()
        self._reporter.flush()
        self._journal.close()
        if self._journal.stats().status is FlushStatus.OK:  # else its last events are gone
            self._save(closed=True)
        self._reloads.close()
        self._cutting.close()
        self._control.close()
        self._labelling.close()

    def on_signal(self, number: int, _frame: object) -> None:
        """Handles SIGHUP (reload) and SIGTERM; any signal also wakes the loop."""
        if number == signal.SIGHUP:
            self._reloads.request()
        elif number != signal.SIGCHLD:  # that one only has to wake the loop
            self._stopping = True

    def release_all(self) -> None:
        """The supervisor is gone, and with it who judges in the place of this engine."""
        self._heartbeat.end()
        patience_ns = 1_000_000_000
        self._stand_in.release_all(self._reporter.clock.now() + patience_ns)

    @property
    def wake_fd(self) -> int:
        """Where signal numbers are to be written, so that they end the loop's wait."""
        return self._wake_write

    def _ready(self, poll: select.epoll, fd: int, what: int) -> None:
        if fd == self._control.listener.fileno():
            accepted = self._control.accept()
            if accepted is not None:
                poll.register(accepted, select.EPOLLIN)
        elif fd == self._wake_read:
            os.read(self._wake_read, 512)
        elif fd == self._supervisor.fileno():
            self._stopping = True  # it never speaks unasked: it is gone
        elif self._control.has(fd):
            readable = bool(what & ~select.EPOLLOUT)
            if self._control.serve(fd, readable=readable, writable=bool(what & select.EPOLLOUT)):
                writes = self._control.wants_write(fd)
                poll.modify(fd, select.EPOLLOUT if writes else select.EPOLLIN)

    def _tells_soon(self) -> bool:
        """Whether a record may be of a refusal, or call for a kill."""
        refuses = self._decisions is not None
        return refuses or self._policy.kills_late or self._labelling.unguarded

    def _flush(self) -> None:
        before = self._journal.stats().written if self._settings.streams else 0
        self._reporter.flush()
        if self._settings.streams and self._journal.stats().written != before:
            os.eventfd_write(self._publisher_wake, 1)

    def _housekeeping(self, turn: int) -> None:
        for chore in self._chores(turn):
            chore()
            self._dispatch.glance()
        self._journal.flush()

    def _chores(self, turn: int) -> Iterator[Callable[[], object]]:
        yield lambda: self._approvals.expire(self._reporter.clock.now())
        if self._decisions is not None:
            yield partial(self._decisions.drop_stale_answers, self._reporter.clock.now())
        yield from (self._dispatch.sweep, self._cutting.turn, self._reporter.clock.adjust)
        yield from (self._unheard.report_losses, self._unheard.reap)
        yield from (self._policy.rescan, self._reloads.look)
        if turn % 8 == 0:
            yield self._unheard.look
        if turn % 4 == 0:
            yield self._give_back_memory
        if self._labelling.changed:
            yield self._save

    def _give_back_memory(self) -> None:
        """Once after a burst, when nothing waits for this process any more."""
        records = self._dispatch.records
        if records == self._records_before and records != self._records_trimmed:
            gc.collect()
            trim_heap()
            self._records_trimmed = records
        self._records_before = records

    def _save(self, *, closed: bool = False) -> None:
        state = {
            "running": not closed,
            "sessions": self._registry.to_state(),
            "holds": self._approvals.last_number if closed else self._approvals.reserved,
            "path-meanings": self._policy.meanings,
            "losses": self._unheard.state(),
        }
        try:
            self._state.save(state)
        except OSError as error:
            if not self._labelling.changed:  # told once; the next housekeeping tries again
                log(f"sessions could not be saved, a restart would not know the newest: {error}")
            self._labelling.changed = True
        else:
            self._labelling.changed = False

    def _read_state(self) -> dict[str, Any]:
        """Raises AgentdError where labels in the kernel rest on what cannot be read."""
        try:
            return self._state.read()
        except AgentdError as error:
            if self._restarted:
                raise
            log(f"{error}. No session runs yet, so it is written anew")
            return {}


def main(
    supervisor: socket.socket, loading: Loading, load_arguments: list[str], *, foreground: bool
) -> int:
    """Until SIGTERM; `loading` has been started with `load_arguments`. Returns the exit code."""
    parent = os.getppid()
    try:
        loaded = read_loaded(loading.result())
        engine = Engine(supervisor, loaded, load_arguments, foreground=foreground)
    except ConfigErrors as errors:
        log(str(errors))
        return EXIT_CONFIG
    except AgentdError as error:
        log(str(error))
        return EXIT_FAILED
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, engine.on_signal)
    signal.set_wakeup_fd(engine.wake_fd, warn_on_full_buffer=False)
    try:
        engine.start()
        engine.run()
        engine.close()
    finally:
        if os.getppid() != parent:
            engine.release_all()
    return 0
