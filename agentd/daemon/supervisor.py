"""The supervisor: owns the eBPF programs, starts engine and publisher, and judges in their place.

It stays small on purpose (no pydantic, no parser): whatever hostile input does to the engine,
this process goes on, releases what was held within its next tick and starts a new engine. The
programs, their maps and the control socket are its own, so labels survive the engine.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from agentd.daemon import channel, spawn
from agentd.daemon.child import PATIENT, Child
from agentd.daemon.log import log
from agentd.daemon.standin import StandIn
from agentd.daemon.watchdog import Watchdog
from agentd.errors import AgentdError
from agentd.kernel.guarded import GuardedProcesses
from agentd.kernel.heartbeat import SUPERVISOR, Heartbeat
from agentd.kernel.libbpf import KernelError
from agentd.kernel.pins import Pins
from agentd.kernel.sensor import Sensor
from agentd.kernel.tier import OBSERVE

EXIT_FAILED = 1
EXIT_CONFIG = 78
_TICK_S = 0.02
_IDLE_S = 1.0
_RELEASE_ALL_NS = 1_000_000_000


class Supervisor:
    """The loop that keeps the daemon's parts alive, and everything that outlives an engine."""

    def __init__(self, engine_arguments: list[str]) -> None:
        self._engine_arguments = engine_arguments
        self._sensor = Sensor()
        self._engine = Child("engine")
        self._publisher = Child("publisher", PATIENT)
        self._channel: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._locks: list[int] = []
        self._config: dict[str, Any] = {}
        self._engine_ready = False
        self._ever_ready = False
        self._guarded: GuardedProcesses | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._publisher_wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._released: list[dict[str, Any]] = []
        self._stand_in: StandIn | None = None
        self._watchdog: Watchdog | None = None
        self._adopted = False
        self._unload = False
        self._stopping = False

    def run(self) -> int:
        """Until a signal asks to stop, or the engine refuses the configuration at the start."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._start_engine()  # its imports and our loading run at the same time
        try:
            if not Pins.any():
                self._sensor.load()
            # Else it is loaded once the configuration says whether the maps left are ours.
        except AgentdError:
            self._engine.stop()
            raise
        try:
            return self._loop()
        finally:
            self._shut_down()

    def _loop(self) -> int:
        while not self._stopping:
            self._wait()
            status = self._engine.reap()
            if status is not None:
                self._engine_gone(status)
                if not self._ever_ready:
                    return status if status > 0 else EXIT_FAILED
            if self._watchdog is not None and self._watchdog.bites():
                self._engine_hangs()
            self._publisher_gone(self._publisher.reap())
            self._sensor.tick()
            if not self._engine_ready and self._stand_in is not None:
                self._heartbeat.beat()
                self._released += self._stand_in.release_all(
                    time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                )
            if self._engine.due() and not self._stopping:
                self._start_engine()
            if self._ever_ready and self._publisher_wanted() and self._publisher.due():
                self._start_publisher()
        return 0

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._channel is not None:
            poll.register(self._channel, select.POLLIN)
        timeout = _IDLE_S if self._engine_ready else _TICK_S
        for fd, _ in poll.poll(timeout * 1000):
            if fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 512)
            else:
                self._hear_engine()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            self._stopping = True
            self._unload = number == signal.SIGINT
        elif number == signal.SIGHUP and self._engine.process is not None:
            self._engine.process.send_signal(signal.SIGHUP)

    def _start_engine(self) -> None:
        ours, theirs = channel.pair()
        self._channel = ours
        with theirs:
            argv = spawn.command("agentd.daemon.engine", "--channel", str(theirs.fileno()))
            self._engine.start(argv + self._engine_arguments, (theirs.fileno(),), {})
        self._guard_processes()

    def _hear_engine(self) -> None:
        if self._channel is None:
            return
        heard = channel.receive(self._channel)
        if heard is None:
            self._channel.close()
            self._channel = None
            return
        message, _ = heard
        match message["op"]:
            case "config":
                self._config = message["config"]
                self._open_runtime()
                self._send_kernel()
            case "syscalls":
                self._sensor.watch_syscalls(message["on"], opens=message["opens"])
                channel.send(self._channel, {"op": "done"})
            case "guard":
                answer = self._guard(message["cgroup"])
                channel.send(self._channel, {"op": "done", "error": answer})
            case "unguard":
                self._sensor.unguard(message["cgroup"])
                channel.send(self._channel, {"op": "done"})
            case "take-over":
                # From here on the engine judges; what was released before is told to it.
                self._engine_ready = True
                channel.send(self._channel, {"op": "yours", "released": self._released[:500]})
                self._released.clear()
            case "ready":
                self._announce()

    def _guard(self, cgroup: str) -> str | None:
        try:
            self._sensor.guard(cgroup)
        except (OSError, KernelError) as error:
            return str(error)
        return None

    def _open_runtime(self) -> None:
        """Locks and control socket: once, they outlive engines."""
        if self._listener is not None:
            return
        runtime = Path(self._config["runtime_dir"])
        self._locks.append(_lock(runtime, 0o755, "lock"))
        # Of two daemons with one state_dir each would lose what the other writes there.
        self._locks.append(_lock(Path(self._config["state_dir"]), 0o750, "state.lock"))
        self._take_over(Pins(runtime))
        path = runtime / "control.sock"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(socket.SOMAXCONN)

    def _take_over(self, pins: Pins) -> None:
        """Puts the programs in force, in the place of those that an earlier daemon has left."""
        self._adopted = pins.exist()
        if not self._sensor.maps:
            self._sensor.load(pins.open_maps() if self._adopted else {})
        self._sensor.enforce(self._config["tier"])
        for what, why in self._sensor.enforcer.refusals.items():
            log(f"{what}: {why}")
        if self._sensor.enforcer.tier != OBSERVE and self._sensor.syscalls.refusal:
            log(f"every system call is slower in a session: {self._sensor.syscalls.refusal}")
        self._heartbeat = Heartbeat(self._sensor.maps["enforcing"], SUPERVISOR)
        self._heartbeat.beat()
        guarded = self._sensor.maps.get("guarded")
        if guarded is not None:
            self._guarded = GuardedProcesses(guarded)
            self._guard_processes()
        self._sensor.attach(pins)
        self._stand_in = StandIn(self._sensor.maps)

    def _send_kernel(self) -> None:
        if self._channel is None or self._listener is None:
            return
        maps = list(self._sensor.maps.values())
        message = {
            "op": "kernel",
            "maps": [[m.name, m.key_size, m.value_size, m.max_entries] for m in maps],
            "restart": self._ever_ready or self._adopted,
            "families": self._sensor.enforcer.families,
            "tier": self._sensor.enforcer.tier,
            "hooks": sorted(self._sensor.enforcer.hooks),
            "missing": self._sensor.enforcer.missing,
        }
        fds = (self._listener.fileno(), self._publisher_wake, *(m.fd for m in maps))
        channel.send(self._channel, message, fds)

    def _announce(self) -> None:
        self._engine.is_ready()
        self._watchdog = Watchdog(self._heartbeat.last)
        if not self._ever_ready and "--foreground" not in self._engine_arguments:
            log("READY")  # in the foreground the engine's own first line says so
        self._ever_ready = True
        address = os.environ.get("NOTIFY_SOCKET")
        if address:
            if address.startswith("@"):
                address = "\0" + address[1:]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.connect(address)
                notify.send(b"READY=1")

    def _engine_hangs(self) -> None:
        """Killed, it judges nothing from here on, even if a dead disk keeps it from ending."""
        log("engine has not answered for 10 s and is killed: is its disk full or slow?")
        self._engine.kill()
        self._engine_ready = False
        self._watchdog = None

    def _engine_gone(self, status: int) -> None:
        self._engine_ready = False
        self._watchdog = None
        self._guard_processes()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if not self._stopping and self._ever_ready:
            log(f"engine ended with status {status}; its held calls are released, a new one starts")

    def _publisher_wanted(self) -> bool:
        return bool(self._config.get("nats", {}).get("servers"))

    def _start_publisher(self) -> None:
        config = os.memfd_create("agentd-config", 0)
        os.write(config, json.dumps(self._config).encode())
        os.lseek(config, 0, os.SEEK_SET)
        argv = spawn.command("agentd.stream", "--config-json", str(config))
        argv += ["--wake-fd", str(self._publisher_wake)]
        self._publisher.start(argv, (config, self._publisher_wake), {})
        os.close(config)
        self._guard_processes()

    def _guard_processes(self) -> None:
        """Tells the kernel which processes are agentd's own, where it protects them."""
        if self._guarded is not None:
            children = (self._engine.process, self._publisher.process)
            self._guarded.replace({os.getpid(), *(each.pid for each in children if each)})

    def _publisher_gone(self, status: int | None) -> None:
        if status is not None and not self._stopping and not self._publisher.repeats:
            log(f"publisher ended with status {status}; events wait in the journal")

    def _shut_down(self) -> None:
        self._stopping = True
        self._engine.stop(self._wait)  # it may be waiting for an answer of ours
        if self._stand_in is not None:
            self._heartbeat.end()
            self._stand_in.release_all(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + _RELEASE_ALL_NS)
        self._publisher.stop()
        # What an earlier daemon has left stays when this one does not come up.
        self._sensor.close(leave=(self._ever_ready or self._adopted) and not self._unload)
        if self._listener is not None:
            self._listener.close()
            (Path(self._config["runtime_dir"]) / "control.sock").unlink(missing_ok=True)


def _lock(directory: Path, mode: int, name: str) -> int:
    """Makes a directory this daemon's own, as long as it lives. Raises AgentdError."""
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        lock = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AgentdError(
            f"another agentd runs with {directory}; stop it first, or give this one its own"
            " runtime_dir and state_dir"
        ) from None
    except OSError as error:
        raise AgentdError(f"{directory}: it cannot be used: {error}") from error
    return lock


def main(config_path: str | None, rules: list[str], foreground: bool) -> int:
    """Runs the daemon until SIGTERM or SIGINT. Returns the exit code (78: bad configuration)."""
    if os.geteuid() != 0:
        log("the daemon must run as root: it loads eBPF programs")
        return 77
    arguments = [f"--rules={directory}" for directory in rules]
    if config_path:
        arguments.append(f"--config={config_path}")
    if foreground:
        arguments.append("--foreground")
    try:
        return Supervisor(arguments).run()
    except KernelError as error:
        log(f"{error}\nagentd: `agentd doctor` says what this kernel allows")
        return EXIT_FAILED
    except AgentdError as error:
        log(str(error))
        return EXIT_FAILED
