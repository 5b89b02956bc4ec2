"""Packages of Debian's suites, unpacked and never installed.

apt runs with a configuration, sources and state of its own in a directory that goes away, so the
machine's package sources are neither used nor changed; only its `Acquire` settings (proxies) are
taken over.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "http://deb.debian.org/debian"


class Apt:
    """apt with a configuration of its own below `directory`."""

    def __init__(self, directory: Path, suites: Sequence[str]) -> None:
        self._directory = directory
        self._suites = suites
        self.trouble = ""
        """What apt said of suites that it could not read; the others are used."""
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
        # A suite that is no more is no harm while another has the package.
        update = self._start("apt-get", "-q=2", "update")
        self.trouble = update.stderr if update.returncode else ""

    def show(self, package: str) -> Iterator[dict[str, str]]:
        """The records of a package in the suites, newest version first."""
        for record in self._start("apt-cache", "show", package).stdout.split("\n\n"):
            if record.strip():
                yield dict(re.findall(r"^([\w-]+): (.*)$", record, re.MULTILINE))

    def unpack(self, packages: Sequence[str]) -> Path:
        """Download packages and unpack them over one another; returns the directory."""
        root = self._directory / "root"
        root.mkdir()
        self._start(
            "apt-get", "-q=2", "download", *packages, cwd=self._directory / "debs"
        ).check_returncode()
        for package in sorted((self._directory / "debs").iterdir()):
            self._start("dpkg", "-x", str(package), str(root)).check_returncode()
            package.unlink()
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")
        return root

    def _start(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=self._environment, cwd=cwd
        )


def _source(suite: str) -> str:
    archive = f"{_ARCHIVE}-security" if suite.endswith("-security") else _ARCHIVE
    return f"deb [signed-by={_KEYRING} arch=amd64 target=Packages] {archive} {suite} main\n"
