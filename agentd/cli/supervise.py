"""What `agentd daemon` becomes (`python -m agentd.cli.supervise`): no click in a daemon."""

import getopt
import sys

from agentd.daemon import supervisor


def main(arguments: list[str]) -> int:
    """Run the supervisor until it is told to stop; returns the exit code.

    `arguments` are --foreground, --config FILE and --rules DIR (repeatable).
    """
    options, _ = getopt.getopt(arguments, "", ["foreground", "config=", "rules="])
    given = dict(options)
    rules = [value for name, value in options if name == "--rules"]
    return supervisor.main(
        given.get("--config"),
        rules,
        foreground="--foreground" in given,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
