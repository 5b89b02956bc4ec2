"""What `agentd daemon` becomes (`python -m agentd.cli.supervise`): no click in a daemon."""

import getopt
import sys

from agentd.daemon import supervisor


def main(arguments: list[str]) -> int:
    """Run the supervisor until it is told to stop; returns the exit code.

    `arguments` are --foreground, --config FILE, --rules DIR (repeatable) and --no-nats.
    """
    options, _ = getopt.getopt(arguments, "", ["foreground", "config=", "rules=", "no-nats"])
    given = dict(options)
    rules = [value for name, value in options if name == "--rules"]
    return supervisor.main(
        given.get("--config"),
        rules,
        foreground="--foreground" in given,
        no_nats="--no-nats" in given,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
