"""The commands by name, and the frame that every one of them runs in."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from client_agent.cli.output import Answer, CliError, Exit, complain, say
from client_agent.settings import SettingsError

# name -> module in this package; the command is the attribute `<name>_command`.
COMMANDS = {
    "register": "account", "login": "account", "logout": "account", "whoami": "account",
    "link": "account", "devices": "account",
    "run": "running", "start": "running", "stop": "running", "pause": "running",
    "resume": "running", "sync": "running", "wait": "running", "rescan": "running",
    "status": "look", "filestatus": "look", "activity": "look", "conflicts": "look",
    "history": "look", "hold": "look", "doctor": "doctor", "config": "doctor",
}
ORDER = tuple(COMMANDS)


class Lazy(click.Group):
    """Imports a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(ORDER)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found: click.Command = getattr(
            import_module(f"client_agent.cli.{module}"), f"{cmd_name}_command"
        )
        return found


@click.command(
    cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 agent not running, 4 not signed in,"
    " 5 temporary, 6 attention needed, 7 fatal, 8 quota or disk full, 9 not yet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.version_option(package_name="syncline", prog_name="syncline")
@click.pass_context
def syncline(context: click.Context, as_json: bool) -> None:
    """Synchronise a folder between devices, encrypted end to end."""
    context.obj = as_json


def command(
    name: str, *options: Callable[[Any], Any], schema: str = ""
) -> Callable[[Callable[..., Answer]], click.Command]:
    """Make a command of a function that returns an `Answer`; `--json` comes with it."""

    def wrap(work: Callable[..., Answer]) -> click.Command:
        def invoke(as_json: bool, **arguments: Any) -> None:
            context = click.get_current_context()
            answer = work(**arguments)
            wanted = as_json or bool(context.obj)
            context.exit(say(answer, schema or f"syncline.{name}/1", wanted))

        wrapped: Any = invoke
        for option in reversed(options):
            wrapped = option(wrapped)
        wrapped = click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON document."
        )(wrapped)
        return click.command(name, help=work.__doc__)(wrapped)

    return wrap


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    as_json = "--json" in arguments
    try:
        code = syncline.main(list(arguments), "syncline", standalone_mode=False)
        return int(code or Exit.DONE)
    except CliError as error:
        return complain(error, as_json)
    except SettingsError as error:
        return complain(CliError("usage", str(error), exit=Exit.USAGE), as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return int(Exit.USAGE)
    except click.UsageError as error:
        if as_json:
            return complain(CliError("usage", error.format_message(), exit=Exit.USAGE), True)
        error.show()
        return int(Exit.USAGE)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(Exit.FAILED)
