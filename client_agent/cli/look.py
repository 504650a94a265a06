"""Commands that look: status, filestatus, activity, conflicts, history, hold.

They must start fast: nothing is imported here but the standard library and click.
"""

import os
import sys
from typing import Any

import click

from client_agent.cli import control
from client_agent.cli.commands import command
from client_agent.cli.output import Answer, CliError, Exit, say, size
from client_agent.settings import Settings, load

WORDS = {
    "up_to_date": "Up to date",
    "syncing": "Synchronising",
    "paused": "Paused",
    "offline": "Offline: the server does not answer; changes wait in the queue",
    "attention": "Needs your attention",
    "held": "Held: a safety stop waits for you; see: syncline hold",
    "signed_out": "Signed out: run syncline login",
    "error": "Stopped: the server's journal does not extend what this device has seen",
}
CHECKS = {
    "up_to_date": Exit.DONE, "syncing": Exit.NOT_YET, "paused": Exit.NOT_YET,
    "offline": Exit.TEMPORARY, "attention": Exit.ATTENTION, "held": Exit.ATTENTION,
    "signed_out": Exit.SIGNED_OUT, "error": Exit.FATAL,
}


@command(
    "status",
    click.option("--watch", is_flag=True, help="Show it again whenever it changes."),
    click.option("--check", is_flag=True, help="Print nothing; the exit code tells."),
)
def status_command(watch: bool, check: bool) -> Answer:
    """Show how things stand."""
    settings = load()
    data = _ask(settings, "status")
    if check:
        raise SystemExit(int(CHECKS.get(data["state"], Exit.FAILED)))
    if watch:
        _watch(settings, data)
    return Answer(data, _status_text(data), _warnings(data))


def _ask(settings: Settings, do: str, **arguments: Any) -> dict[str, Any]:
    """Ask the agent; where there is none, say whether anybody is signed in at all."""
    try:
        return control.ask(settings.socket, do, **arguments)
    except CliError as error:
        if error.code == "not_running" and not (settings.home / "account.json").exists():
            raise CliError(
                "signed_out", "Nobody is signed in on this device",
                "No files are synchronised.", "Run: syncline register, or syncline login",
                Exit.SIGNED_OUT,
            ) from None
        raise


def _watch(settings: Settings, data: dict[str, Any]) -> None:
    """Print it at every change: lines for people, with --json a document in each line."""
    import time

    context = click.get_current_context()
    as_json = bool(context.params.get("as_json") or context.obj)
    shown: object = None
    while True:
        text = _status_text(data)
        seen: object = {**data, "as_of": ""} if as_json else text
        if seen != shown:
            say(Answer(data, text), "syncline.status/1", as_json)
            sys.stdout.flush()
            shown = seen
        time.sleep(1)
        data = control.ask(settings.socket, "status")


def _status_text(data: dict[str, Any]) -> str:
    counts, moved = data["counts"], data["bytes"]
    lines = [f"{WORDS.get(data['state'], data['state'])}   {data['folder']}"]
    going = [
        f"{counts[name]} {name}"
        for name in ("uploading", "downloading", "conflicts", "held", "errors")
        if counts[name]
    ]
    if going:
        lines.append(f"  {', '.join(going)}")
    if moved["up_left"] or moved["down_left"]:
        lines.append(f"  {size(moved['up_left'])} to send, {size(moved['down_left'])} to fetch")
    lines += [f"  {kind}: {detail}" for kind, detail in data["holds"].items()]
    lines += [f"  {path}: {fault}" for path, fault in list(data["faults"].items())[:10]]
    if data["watch"]["mode"].startswith("polling"):
        lines.append(f"  watching: {data['watch']['mode']}")
    return "\n".join(lines)


def _warnings(data: dict[str, Any]) -> list[str]:
    if data["keystore"] != "file":
        return []
    return ["keys are kept in a file that only you can read; encrypt the disk it is on"]


@command("filestatus", click.argument("paths", nargs=-1, required=True, type=click.Path()))
def filestatus_command(paths: tuple[str, ...]) -> Answer:
    """Print one word for each PATH."""
    data = _ask(load(), "filestatus", paths=[absolute(path) for path in paths])
    text = "\n".join(f"{row['status']:10} {row['path']}" for row in data["files"])
    return Answer(data, text)


@command("activity", click.option("--limit", default=20, help="Lines of history."))
def activity_command(limit: int) -> Answer:
    """Show what is happening now, and the newest of what happened."""
    data = _ask(load(), "activity", limit=limit)
    counts = data["counts"]
    head = (
        f"{WORDS.get(data['state'], data['state'])}: {counts['uploading']} to send,"
        f" {counts['downloading']} to fetch"
    )
    return Answer(data, "\n".join([head, *map(_history_line, data["recent"])]))


@command("conflicts", click.argument("what", type=click.Choice(["list"]), default="list"))
def conflicts_command(what: str) -> Answer:
    """List open conflicts: two edits met, both are kept."""
    data = _ask(load(), "conflicts")
    lines = []
    for row in data["conflicts"]:
        lines.append(f"{row['path']}   ({row['opened_at']})")
        for whose in ("mine", "theirs"):
            side = row[whose]
            lines.append(f"  {whose:7} {side['device']}  {side['time']}  {side['size']} bytes")
        lines += [f"  kept as {copy}" for copy in row["copies"]]
    return Answer(data, "\n".join(lines) or "No conflicts.")


@command(
    "history", click.argument("path", required=False, type=click.Path()),
    click.option("--limit", default=100),
)
def history_command(path: str | None, limit: int) -> Answer:
    """Show what happened, to everything or to PATH and what is below it."""
    named = None if path is None else absolute(path)
    data = _ask(load(), "history", path=named, limit=limit)
    return Answer(data, "\n".join(map(_history_line, data["history"])) or "Nothing yet.")


@command(
    "hold",
    click.argument("what", type=click.Choice(["list", "approve"]), default="list"),
    click.argument("hold_id", required=False),
    click.option("--all", "every", is_flag=True, help="Approve all of them."),
)
def hold_command(what: str, hold_id: str | None, every: bool) -> Answer:
    """Show what a safety stop holds, or let it go on."""
    settings = load()
    if what == "list":
        data = _ask(settings, "hold")
    elif hold_id or every:
        data = _ask(settings, "hold", approve=hold_id or "")
    else:
        raise CliError("usage", "Say which, or --all", exit=Exit.USAGE)
    lines = [f"{row['id']}: {row['detail']} ({row['count']} files)" for row in data["held"]]
    return Answer(data, "\n".join(lines) or "Nothing is held.")


def absolute(path: str) -> str:
    """Return a path without links in its folders; the last name may be one."""
    above, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(above), name)


def _history_line(row: dict[str, Any]) -> str:
    return f"{row['at']}  {row['verb']:16} {row['path']}  {row['detail']}".rstrip()
