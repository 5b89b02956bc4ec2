"""Reads configuration and rules for the engine: `python -m agentd.daemon.preload`.

A process of its own, for as long as that takes: it needs pydantic and a YAML parser (25 MB, and
200 ms that calls would be held), the engine gets plain data. One JSON document on standard output:
what `settings.Loaded` has, or `errors`, each with file, line, message and mend. The exit code is 0
for both.
"""

import getopt
import json
import signal
import sys
from pathlib import Path
from typing import Any

from agentd import config, paths
from agentd.daemon.loading import TIMEOUT_S
from agentd.errors import ConfigErrors
from agentd.policy import loader
from agentd.policy.exchange import policy_to_json
from agentd.policy.files import fingerprint
from agentd.policy.rules import Defaults


def read(config_file: str | None, rules: list[str]) -> dict[str, Any]:
    """The document. `rules` are directories in place of the shipped and the configured ones."""
    try:
        found = config.load(config_file)
        directories = [Path(directory) for directory in rules]
        directories = directories or [paths.shipped_rules(), *found.rules]
        before = fingerprint(directories)
        defaults = Defaults(found.defaults.hold_timeout, found.defaults.on_failure)
        policy = loader.load(directories, defaults)
    except ConfigErrors as errors:
        return {
            "errors": [
                {
                    "file": str(error.file),
                    "line": error.line,
                    "message": error.message,
                    "mend": error.mend,
                }
                for error in errors.errors
            ]
        }
    return {
        "config": found.to_json(),
        "directories": [str(directory) for directory in directories],
        "fingerprint": before,
        "warnings": config.secret_warnings(found),
        "policy": policy_to_json(policy),
    }


def main(arguments: list[str]) -> int:
    """Write the document; `arguments` are --config FILE and --rules DIR (repeatable)."""
    signal.alarm(TIMEOUT_S)  # also when there is no engine any more to end this process
    options, _ = getopt.getopt(arguments, "", ["config=", "rules="])
    rules = [value for name, value in options if name == "--rules"]
    json.dump(read(dict(options).get("--config"), rules), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
