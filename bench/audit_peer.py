"""auditd as the peer: the same things watched, for the processes of one login uid only.

Two facts about the kernel shape this module (kernel/auditsc.c, audit_alloc): once audit has been
enabled, every new task gets an audit context and takes the slow system-call path until the next
boot, even after audit is disabled again (measured: getppid 170 -> 290 ns); and a rule
`-a never,task` spares new tasks that. So the rule is in place whenever auditd is not being
measured, and it is left in place at the end if audit was unused before: otherwise running this
benchmark would slow the machine down until it is rebooted.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGIN_UID = 4242
_KEY = "agentd-bench"
_SPARE_NEW_TASKS = "never,task"

# What agentd records of a labelled session, as audit rules: exec, opens for writing, deletes and
# renames, connect, bind and accept, fork and exit.
_WATCHED: tuple[tuple[str, ...], ...] = (
    ("-S", "execve", "-S", "execveat"),
    ("-S", "openat", "-F", "a2&3"),
    ("-S", "open", "-F", "a1&3"),
    ("-S", "creat"),
    ("-S", "unlink", "-S", "unlinkat", "-S", "rmdir"),
    ("-S", "rename", "-S", "renameat", "-S", "renameat2"),
    ("-S", "connect", "-S", "bind", "-S", "accept", "-S", "accept4"),
    ("-S", "fork", "-S", "vfork", "-S", "clone", "-S", "clone3", "-S", "exit_group"),
)
_CONFIGURATION = """\
local_events = yes
write_logs = yes
log_file = {directory}/audit.log
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 512
num_logs = 2
max_log_file_action = ROTATE
name_format = NONE
space_left = 75
space_left_action = IGNORE
admin_space_left = 50
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
q_depth = 20000
overflow_action = IGNORE
plugin_dir = {directory}/plugins.d
"""


def why_unusable() -> str | None:
    """Why auditd cannot be measured here, or None when it can."""
    if shutil.which("auditctl") is None or shutil.which("auditd") is None:
        return "auditd is not installed (apt-get install auditd)"
    status = subprocess.run(["auditctl", "-s"], capture_output=True, text=True, check=False)
    if status.returncode != 0:
        return f"the kernel refuses audit: {status.stderr.strip()}"
    values = dict(line.split(maxsplit=1) for line in status.stdout.splitlines() if " " in line)
    if values.get("pid", "0") != "0" or values.get("enabled", "0") != "0":
        return "this host uses audit itself"
    rules = _rules()
    if rules not in ([], [f"-a {_SPARE_NEW_TASKS}"]):
        return f"this host has audit rules of its own: {rules}"
    return None


def _auditctl(*words: str) -> None:
    subprocess.run(["auditctl", *words], check=True, capture_output=True)


def _rules() -> list[str]:
    listed = subprocess.run(["auditctl", "-l"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line != "No rules"]


def spare_new_tasks() -> None:
    """Keep tasks that start from now on out of audit, as on a host that never enabled it."""
    if f"-a {_SPARE_NEW_TASKS}" not in _rules():
        _auditctl("-a", _SPARE_NEW_TASKS)


@contextmanager
def watching(directory: Path) -> Iterator[Path]:
    """Run auditd with the rules for LOGIN_UID; yields its log. Rules and auditd end with it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plugins.d").mkdir(exist_ok=True)
    configuration = directory / "auditd.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory))
    configuration.chmod(0o640)
    with (directory / "auditd.out").open("wb") as output:
        daemon = subprocess.Popen(
            ["auditd", "-n", "-c", str(directory)], stdout=output, stderr=output
        )
    try:
        time.sleep(0.5)
        _auditctl("-b", "16384")
        _auditctl("-d", _SPARE_NEW_TASKS)
        for rule in _WATCHED:
            filters = ("-F", "arch=b64", *rule, "-F", f"auid={LOGIN_UID}", "-k", _KEY)
            _auditctl("-a", "always,exit", *filters)
        yield directory / "audit.log"
    finally:
        subprocess.run(["auditctl", "-D", "-k", _KEY], capture_output=True, check=False)
        spare_new_tasks()
        daemon.terminate()
        daemon.wait()
        _auditctl("-e", "0")
        _auditctl("-b", "64")


def in_audited_login(command: list[str]) -> list[str]:
    """Return the argument vector that runs `command` under LOGIN_UID, as a login would."""
    script = f'echo {LOGIN_UID} > /proc/self/loginuid && exec "$@"'
    return ["sh", "-c", script, "sh", *command]
