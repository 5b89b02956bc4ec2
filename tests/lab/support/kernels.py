"""Kernels of Debian's packages, unpacked into a cache and never installed.

The cache (`/var/cache/agentd-lab`, or what AGENTD_LAB_CACHE names) holds one directory a kernel
and one link a series (`6.12 -> 6.12.117+deb13-amd64`). A series that is there is used as it is,
without asking the network; `python -m tests.lab.support.kernels --update` looks for newer ones.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.support.debian import Apt

CACHE: Final = Path(os.environ.get("AGENTD_LAB_CACHE", "/var/cache/agentd-lab"))
SERIES: Final[dict[str, tuple[str, ...]]] = {
    "5.10": ("bullseye", "bullseye-security"),
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "7.2": ("sid", "forky", "trixie-backports"),
}
"""Kernel series and the Debian suites whose linux-image-amd64 is, or is going to be, of it."""

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
        apt = Apt(Path(name), SERIES[series])
        apt.set_up()
        release = _release_of(series, apt)
        kernel = Kernel(series, release, CACHE / release)
        if not kernel.root.exists():
            unpacked = apt.unpack(_packages_of(release, apt))
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


def _release_of(series: str, apt: Apt) -> str:
    """The newest release (`uname -r`) of a series that the suites' meta package names."""
    for package in apt.show(_META_PACKAGE):
        found = re.search(r"\blinux-image-(\d\S+)", package.get("Depends", ""))
        if package.get("Version", "").startswith(f"{series}.") and found:
            return found[1]
    has = ", ".join(package.get("Version", "") for package in apt.show(_META_PACKAGE))
    suites = ", ".join(SERIES[series])
    raise KernelUnavailableError(
        f"no Linux {series} in Debian {suites}: {_META_PACKAGE} is {has or 'not there'}"
        f"\n{apt.trouble}".rstrip()
    )


def _packages_of(release: str, apt: Apt) -> list[str]:
    image = f"linux-image-{release}"
    depends = next(apt.show(image)).get("Depends", "")
    return [image, *re.findall(rf"linux-(?:base|binary|modules)-{re.escape(release)}", depends)]


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
