"""Kernels of Debian's packages, unpacked into a cache and never installed.

The cache (`/var/cache/agentd-lab`, or what AGENTD_LAB_CACHE names) holds one directory a kernel
and one link a series (`6.12 -> 6.12.117+deb13-amd64`). A series that is there is used as it is,
without asking the network; `python -m tests.lab.support.kernels --update` looks for newer ones.

apt runs with a configuration, sources and state of its own in a directory that goes away, so the
machine's package sources are neither used nor changed; only its `Acquire` settings (proxies) are
taken over.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("AGENTD_LAB_CACHE", "/var/cache/agentd-lab"))
SERIES: Final[dict[str, tuple[str, ...]]] = {
    "5.10": ("bullseye", "bullseye-security"),
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "7.2": ("sid", "forky", "trixie-backports"),
}
"""Kernel series and the Debian suites whose linux-image-amd64 is, or is going to be, of it."""

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "http://deb.debian.org/debian"
_META_PACKAGE = "linux-image-amd64"


class KernelUnavailableError(Exception):
    """A series cannot be had: names it, and says what was tried and what apt said."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One unpacked kernel; below `root` lie `lib/modules/<release>` and its image."""

    series: str
    release: str
    root: Path

    @property
    def image(self) -> Path:
        """The bzImage: beside the modules since Debian's split packages, in `boot/` before."""
        split = self.modules / "vmlinuz"
        return split if split.exists() else self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """What `/lib/modules/<release>` is when this kernel runs."""
        return self.root / "lib" / "modules" / self.release


def cached(series: str) -> Kernel | None:
    """The kernel of this series in the cache, or None."""
    try:
        root = (CACHE / series).resolve(strict=True)
    except FileNotFoundError:
        return None
    return Kernel(series, root.name, root)


def fetch(series: str, *, update: bool = False) -> Kernel:
    """The kernel of this series, fetched (about 100 MB) if it is not in the cache.

    `update`: ask Debian for a newer one even if it is. Raises KernelUnavailableError.
    """
    found = None if update else cached(series)
    if found is not None:
        return found
    if series not in SERIES:
        raise KernelUnavailableError(
            f"no kernel series {series}: the lab knows {', '.join(SERIES)}"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = cached(series)
        if found is None or update:
            print(f"fetching Linux {series} into {CACHE}", file=sys.stderr)
            try:
                found = _fetch_into_cache(series)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or ""
                raise KernelUnavailableError(
                    f"Linux {series} of Debian {SERIES[series][0]}: {error}\n{said}"
                ) from error
    return found


def _fetch_into_cache(series: str) -> Kernel:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=CACHE) as name:
        apt = _Apt(Path(name), SERIES[series])
        apt.set_up()
        release = apt.release_of(series)
        kernel = Kernel(series, release, CACHE / release)
        if not kernel.root.exists():
            unpacked = apt.unpack(release)
            subprocess.run(
                ["depmod", "-b", unpacked, release], check=True, capture_output=True, text=True
            )
            unpacked.rename(kernel.root)
        link = Path(name, series)
        link.symlink_to(release)
        link.rename(CACHE / series)
    _drop_unlinked()
    return kernel


def _drop_unlinked() -> None:
    """Remove kernels that a newer one of their series has replaced."""
    entries = list(CACHE.iterdir())
    linked = {entry.readlink().name for entry in entries if entry.is_symlink()}
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink() and entry.name not in linked:
            shutil.rmtree(entry, ignore_errors=True)


class _Apt:
    """apt with a configuration of its own below `directory`."""

    def __init__(self, directory: Path, suites: Sequence[str]) -> None:
        self._directory = directory
        self._suites = suites
        self._trouble = ""
        self._environment = {**os.environ, "APT_CONFIG": str(directory / "apt.conf")}

    def set_up(self) -> None:
        """Write the configuration and fetch the package lists (about 10 MB a suite)."""
        here = self._directory
        for name in ("state/lists/partial", "cache/archives/partial", "debs"):
            (here / name).mkdir(parents=True)
        (here / "status").touch()
        (here / "sources.list").write_text("".join(map(_source, self._suites)))
        settings = subprocess.run(
            ["apt-config", "dump"], check=True, capture_output=True, text=True
        )
        acquire = [line for line in settings.stdout.splitlines() if line.startswith("Acquire::")]
        own = {
            "Dir::Etc::Main": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::SourceList": here / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": here / "state",
            "Dir::State::Status": here / "status",
            "Dir::Cache": here / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        (here / "apt.conf").write_text(
            "\n".join([*acquire, *(f'{name} "{value}";' for name, value in own.items())]) + "\n"
        )
        # A suite that is no more is no harm while another has the kernel.
        update = self._start("apt-get", "-q=2", "update")
        self._trouble = update.stderr if update.returncode else ""

    def release_of(self, series: str) -> str:
        """The newest release (`uname -r`) of a series that the suites' meta package names."""
        for package in self._show(_META_PACKAGE):
            found = re.search(r"\blinux-image-(\d\S+)", package.get("Depends", ""))
            if package.get("Version", "").startswith(f"{series}.") and found:
                return found[1]
        has = ", ".join(package.get("Version", "") for package in self._show(_META_PACKAGE))
        suites = ", ".join(self._suites)
        raise KernelUnavailableError(
            f"no Linux {series} in Debian {suites}: {_META_PACKAGE} is {has or 'not there'}"
            f"\n{self._trouble}".rstrip()
        )

    def unpack(self, release: str) -> Path:
        """Download the packages of a release and unpack them; returns the directory."""
        image = f"linux-image-{release}"
        depends = next(self._show(image)).get("Depends", "")
        parts = re.findall(rf"linux-(?:base|binary|modules)-{re.escape(release)}", depends)
        root = self._directory / "root"
        root.mkdir()
        self._run("apt-get", "-q=2", "download", image, *parts, cwd=self._directory / "debs")
        for package in sorted((self._directory / "debs").iterdir()):
            self._run("dpkg", "-x", str(package), str(root))
            package.unlink()
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")
        return root

    def _show(self, package: str) -> Iterator[dict[str, str]]:
        """The records of a package in the suites, newest version first."""
        for record in self._start("apt-cache", "show", package).stdout.split("\n\n"):
            if record.strip():
                yield dict(re.findall(r"^([\w-]+): (.*)$", record, re.MULTILINE))

    def _run(self, *command: str, cwd: Path | None = None) -> None:
        self._start(*command, cwd=cwd).check_returncode()

    def _start(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=self._environment, cwd=cwd
        )


def _source(suite: str) -> str:
    archive = f"{_ARCHIVE}-security" if suite.endswith("-security") else _ARCHIVE
    return f"deb [signed-by={_KEYRING} arch=amd64 target=Packages] {archive} {suite} main\n"


def main(words: Sequence[str]) -> int:
    """Fetch the series named (all by default); `--update` looks for newer ones."""
    update = "--update" in words
    failed = 0
    for series in [word for word in words if word != "--update"] or SERIES:
        try:
            kernel = fetch(series, update=update)
        except KernelUnavailableError as error:
            failed = 1
            print(error, file=sys.stderr)
        else:
            if update:
                print(f"{series}: {kernel.release}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
