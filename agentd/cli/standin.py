"""The parent's side of `agentd run`: what stands in for the command in the eyes of its caller."""

# Every command waits for these imports, and pathlib would take longer than all the others.
# ruff: noqa: PTH208

import ctypes
import fcntl
import os
import resource
import signal
import socket
import time

SENTINEL_TIMEOUT_S = 1.0
MERGED_S = 0.1

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4

ALL_SIGNALS = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
JOB_STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
CHANGES = os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG

_libc = ctypes.CDLL(None, use_errno=True)


def stand_in(child: int, sentinel: "Sentinel") -> int:
    """Follow the command in process `child` to its end; returns its exit code.

    Does not return if a signal killed it: this process then dies of the same signal. All signals
    must have been blocked since before the forks. Lets go of every open file.
    """
    let_go_of_files(sentinel.file)
    return _StandIn(child, sentinel).wait()


def die_with(wrapper: int) -> None:
    """Be killed when the wrapper dies, of whatever (prctl(2); cleared by setuid programs)."""
    _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != wrapper:
        os._exit(1)


class Sentinel:
    """A process in the job that only tells whether a signal was meant for the whole group.

    kill(2) on a group looks like kill(2) on the wrapper alone, but reaches the sentinel too, and
    the command by itself: passing it on would double it. The kernel signals the youngest process
    of a group first, so the sentinel has it before the wrapper. To be made before the command,
    with all signals blocked.
    """

    def __init__(self) -> None:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket, other = (_above_standard_files(end) for end in pair)
        wrapper = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with(wrapper)
                let_go_of_files(other.fileno())
                while number := other.recv(1):
                    taken = signal.sigtimedwait({number[0]}, 0)
                    other.send(bytes([number[0], taken is not None]))
            finally:
                os._exit(0)
        other.close()
        self._socket.settimeout(SENTINEL_TIMEOUT_S)

    @property
    def file(self) -> int:
        """The descriptor that the wrapper needs to ask; closed at exec."""
        return self._socket.fileno()

    def got(self, number: int) -> bool:
        """Whether the group was sent this signal since the last question; forgets it."""
        try:
            self._socket.send(bytes([number]))
            while (answer := self._socket.recv(2)) and answer[0] != number:
                continue  # late, of a time when the sentinel was stopped
        except OSError:
            return False
        return answer == bytes([number, 1])

    def end(self) -> None:
        """Take the process away."""
        self._socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _above_standard_files(end: socket.socket) -> socket.socket:
    """The same socket on a descriptor above 2, also if the caller gave us those closed."""
    with end:
        return socket.socket(fileno=fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))


class _StandIn:
    """The parent's side: from the fork of the command to its end, all signals blocked."""

    def __init__(self, child: int, sentinel: Sentinel) -> None:
        self._child = child
        self._held = False
        self._stop_after_hold = False
        self._to_group: dict[int, tuple[int, float]] = {}
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._sentinel = sentinel

    def wait(self) -> int:
        """Serve until the command has ended; its exit code, or death by its signal."""
        while True:
            ended = self._take_changes()
            if ended is not None:
                self._sentinel.end()
                return ended.si_status if ended.si_code == os.CLD_EXITED else _die(ended.si_status)
            received = signal.sigwaitinfo(ALL_SIGNALS)
            if received.si_signo == signal.SIGCHLD:
                continue
            self._pass_on(received)

    def _pass_on(self, received: signal.struct_siginfo) -> None:
        """Send the command what a process sent to the wrapper alone.

        What the kernel (the terminal) sends goes to the whole group. SIGCONT is never passed on
        here: the command may be held.
        """
        number = received.si_signo
        to_group = self._was_to_group(number, received.si_pid)
        if self._held and number == signal.SIGTSTP:
            self._stop_after_hold = True
        elif received.si_code <= 0 and not to_group and number != signal.SIGCONT:
            os.kill(self._child, number)

    def _was_to_group(self, number: int, sender: int) -> bool:
        """Ask the sentinel; two in quick succession may have merged into one there."""
        now = time.monotonic()
        if self._sentinel.got(number):
            self._to_group[number] = (sender, now)
            return True
        last_sender, last = self._to_group.get(number, (0, -MERGED_S))
        return sender == last_sender and now - last < MERGED_S

    def _take_changes(self) -> "os.waitid_result | None":
        """Follow the command's stops and continuations; the result of its end, if it has ended."""
        while (change := os.waitid(os.P_PID, self._child, CHANGES)) is not None:
            if change.si_code == os.CLD_STOPPED:
                self._held = change.si_status not in JOB_STOPS
                if not self._held:
                    self._stop_likewise(change.si_status)
            elif change.si_code == os.CLD_CONTINUED:
                self._held = False
                if self._stop_after_hold:  # SIGCONT has wiped out the Ctrl-Z of meanwhile
                    self._stop_after_hold = False
                    os.kill(self._child, signal.SIGTSTP)
            else:
                return change
        return None

    def _stop_likewise(self, number: int) -> None:
        """Stop as the command did, so that the shell sees its job stop; go on when told to."""
        if self._changed():
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        for stop in JOB_STOPS:
            self._sentinel.got(stop)
        if not self._changed():  # SIGCONT was for the wrapper alone, and the command is stopped
            os.kill(self._child, signal.SIGCONT)

    def _changed(self) -> bool:
        """Whether the command has gone on, ended or stopped again; leaves that to be taken."""
        return os.waitid(os.P_PID, self._child, CHANGES | os.WNOWAIT) is not None


def _die(number: int) -> int:
    """Die of the signal that killed the command, without a second core; 128+N if that fails."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # a core that is piped to a program knows no limit
    if number in ALL_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    return 128 + number


def let_go_of_files(keep: int) -> None:
    """Leave terminal, pipes and files to the command: an end that it closes is closed for good.

    Every descriptor but `keep` (not 0, 1 or 2) is closed or becomes /dev/null.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, keep)
    os.closerange(keep + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
