"""What `agentd daemon` becomes (`python -m agentd.cli.supervise`): no click in a daemon."""

import getopt
import os
import sys

from agentd.cli.exits import Exit
from agentd.daemon import supervisor
from agentd.errors import AgentdError, ConfigError, ConfigErrors


def main(arguments: list[str]) -> int:
    """Run the supervisor until it is told to stop; returns the exit code.

    `arguments` are --foreground, --config FILE and --rules DIR (repeatable).
    """
    options, _ = getopt.getopt(arguments, "", ["foreground", "config=", "rules="])
    given = dict(options)
    rules = [value for name, value in options if name == "--rules"]
    if os.geteuid() != 0:
        print("agentd: the daemon needs root to load programs; use sudo", file=sys.stderr)
        return Exit.DENIED
    try:
        return supervisor.main(given.get("--config"), rules, "--foreground" in given)
    except (ConfigError, ConfigErrors) as error:
        print(f"agentd: {error}", file=sys.stderr)
        return Exit.CONFIG
    except AgentdError as error:
        print(f"agentd: {error}", file=sys.stderr)
        return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
