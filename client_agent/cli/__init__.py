"""The command `syncline`. Each command's module is imported only when that command is called."""

import sys


def main() -> None:
    """Run the command line; the exit code is one of `output.Exit`."""
    from client_agent.cli.commands import run

    sys.exit(run(sys.argv[1:]))
