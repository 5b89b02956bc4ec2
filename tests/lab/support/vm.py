"""One boot of a lab kernel on the live root file system, under QEMU without KVM.

The guest sees the host's root read-only with an overlay in memory on top (`init.sh`), has loopback
and nothing else of a network, runs one command as root and powers off. What it writes below
`$AGENTD_LAB_SHARE` is in `Machine.share` on the host.
"""

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tests.lab.support import initramfs
from tests.lab.support.kernels import Kernel

QEMU: Final = "qemu-system-x86_64"
CHECKOUT: Final = Path(__file__).parents[3]

# Without ERMS, for which the kernel copies with `rep movsb`: emulated, that is byte by byte, and
# loading programs takes a quarter longer or more. With two of QEMU's "max" CPUs 7.2 panics, too.
_CPU_MODEL: Final = "Nehalem"
_BOOT_PARAMETERS: Final = (
    "console=ttyS0",
    "loglevel=5",  # warnings and what is worse: the serial port is slow
    "panic=-1",  # reboot at once, which -no-reboot turns into the end of QEMU
    "mitigations=off",  # page table isolation alone makes an emulated system call twice as slow
)


@dataclass(slots=True)
class Machine:
    """A kernel, its machine, and `share`, a directory of the host that the guest may write to.

    `append`: kernel parameters beside our own. `memory_mib`: what the overlay lives in, too.
    `counted`: its clock moves one nanosecond an instruction, whatever else the host does.
    """

    kernel: Kernel
    share: Path
    append: str = ""
    cpus: int = 2
    memory_mib: int = 2048
    environment: dict[str, str] = field(default_factory=dict)
    counted: bool = False

    @property
    def console(self) -> Path:
        """What the kernel printed, panics included."""
        return self.share / "console.log"

    def start(
        self, command: str, *, output: IO[bytes] | int = subprocess.PIPE, terminal: bool = False
    ) -> subprocess.Popen[bytes]:
        """Boot, run `command` (bash) in the checkout, power off; returns QEMU's process.

        `output` gets the command's standard output and error; with `terminal` the command has our
        terminal instead. The caller ends the process.
        """
        term = os.environ.get("TERM", "dumb") if terminal else ""
        exports = [f"export {k}={shlex.quote(v)}\n" for k, v in self.environment.items()]
        (self.share / "command").write_text("".join([*exports, command, "\n"]))
        for name in ("status", "console.log"):
            (self.share / name).unlink(missing_ok=True)
        archive = initramfs.build(self.kernel, self._settings(term))
        (self.share / "initramfs").write_bytes(archive)
        return subprocess.Popen(
            self._qemu(terminal),
            bufsize=0,
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=None if terminal else output,
        )

    def last_words(self, lines: int = 100) -> str:
        """The end of what the kernel printed."""
        try:
            text = self.console.read_text(errors="replace")
        except FileNotFoundError:
            return "(nothing)"
        return "\n".join(text.splitlines()[-lines:])

    def exit_code(self) -> int | None:
        """The command's exit code, or None if the guest did not get as far."""
        try:
            return int((self.share / "status").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _settings(self, term: str) -> dict[str, str]:
        config = self.kernel.root / "boot" / f"config-{self.kernel.release}"
        return {
            "RELEASE": self.kernel.release,
            "MODULES": str(self.kernel.modules),
            "CONFIG": str(config if config.exists() else self.kernel.modules / "config"),
            "TTY": term,
            "WORKDIR": str(CHECKOUT),
        }

    def _qemu(self, terminal: bool) -> list[str]:
        port = "virtconsole" if terminal else "virtserialport"
        # Not stdio without a terminal: it hangs up at the end of its input, and the guest blocks.
        ends = "stdio,id=io,signal=off" if terminal else "file,id=io,path=/proc/self/fd/1"
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # a test run that is killed leaves no VM behind
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            # One host thread: with one for each CPU the emulator can run into the breakpoint by
            # which the kernel patches a call on another CPU, and the kernel panics.
            *("-machine", "q35", "-accel", "tcg,thread=single"),
            *("-cpu", _CPU_MODEL),
            *(("-icount", "shift=0,sleep=on") if self.counted else ()),
            *("-smp", str(self.cpus), "-m", f"{self.memory_mib}M"),
            *("-kernel", str(self.kernel.image), "-initrd", str(self.share / "initramfs")),
            *("-append", " ".join([*_BOOT_PARAMETERS, self.append])),
            *("-serial", f"file:{self.console}"),
            *_directory("root", Path("/"), ",readonly=on"),
            *_directory("share", self.share),
            *("-chardev", ends, "-device", "virtio-serial-pci"),
            *("-device", f"{port},chardev=io,name=lab"),
        ]


def _directory(tag: str, path: Path, options: str = "") -> tuple[str, ...]:
    """A directory of the host, with all file systems mounted in it, as a 9p device."""
    device = f"local,id={tag},path={path},security_model=none,multidevs=remap{options}"
    return "-fsdev", device, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"
