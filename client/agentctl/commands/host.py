"""`agentctl host`: the servers that -H can name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from agentctl.commands.base import SHARED_OPTIONS, Settings, Verb, note, out, out_lines, say, warn
from agentctl.errors import EXIT_UNREACHABLE, AgentctlError, RefusedError

if TYPE_CHECKING:
    from agentctl.hosts.setup import Installed, Wish
    from agentctl.link.book import Host, HostBook
    from agentctl.several.roll import Row

_ASK_WITHIN_S = 1.0


@click.group(params=list(SHARED_OPTIONS), no_args_is_help=True)
def command() -> None:
    """Set servers up over SSH, and look after them.

    A server needs an account, an ssh that lets you in, and Python 3.11 or newer (or uv). The
    agent goes into your home there; nothing needs root, and nothing listens on the network.
    """


def _book() -> HostBook:
    from agentctl.link.book import HostBook

    return HostBook.of_environment()


def _known(book: HostBook, name: str) -> Host:
    from agentctl.words import told

    host = book.find(name)
    if host is None:
        raise RefusedError(f"there is no host {told(ascii(name))}; see: agentctl host ls")
    return host


def _is_person_here() -> bool:
    from agentctl.render.color import is_terminal

    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def _wish(*, offline: bool = False, python: str | None = None, force: bool = False) -> Wish:
    from agentctl.hosts.setup import Wish

    return Wish(offline=offline, python=python, interactive=_is_person_here(), force=force)


_OFFLINE = click.option(
    "--offline", is_flag=True, help="Send everything over the link; the server fetches nothing."
)
_PYTHON = click.option("--python", metavar="PATH", help="The server's Python to use.")
_FORCE = click.option("--force", is_flag=True, help="Put an older version over a newer one.")


@command.command(
    "add",
    cls=Verb,
    short_help="Set up a server.",
    examples="""
    agentctl host add gpu1                        # a name that ssh knows
    agentctl host add gpu1 me@gpu1.example.org
    agentctl host add --offline node7             # a server without internet
    """,
)
@click.argument("name")
@click.argument("destination", required=False)
@_OFFLINE
@_PYTHON
@_FORCE
@click.pass_obj
def add(
    settings: Settings,
    name: str,
    destination: str | None,
    offline: bool,  # noqa: FBT001  # click's flag
    python: str | None,
    force: bool,  # noqa: FBT001  # click's flag
) -> None:
    """Set up the server that ssh reaches as DESTINATION (or NAME) under the name NAME.

    Run it again to repair a host that was set up by half.
    """
    from agentctl.hosts import setup

    wish = _wish(offline=offline, python=python, force=force)
    installed = setup.add(_book(), name, destination, wish, note)
    _tell(settings, installed)


def _tell(settings: Settings, installed: Installed) -> None:
    host = installed.host
    if settings.json:
        import json

        out(json.dumps(_to_json(host)))
        return
    jobs = len(installed.jobs)
    going_on = f", {jobs} running job{'s' * (jobs != 1)} went on" if jobs else ""
    fresh = "installed" if installed.is_new else "was there already"
    out(f"{host.name} is ready: agent {host.version} {fresh}{going_on}")
    note(f"try: agentctl -H {host.name} run -- hostname")


def _to_json(host: Host) -> dict[str, Any]:
    from agentctl.render.units import format_rfc3339

    return {
        "name": host.name,
        "destination": host.destination,
        "agentd": host.agentd,
        "version": host.version,
        "added_at": format_rfc3339(host.added_at),
    }


@command.command(
    "upgrade",
    cls=Verb,
    short_help="Bring a host to this version.",
    examples="""
    agentctl host upgrade gpu1
    agentctl host upgrade --all
    """,
)
@click.argument("name", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every host of the book.")
@_OFFLINE
@_PYTHON
@_FORCE
@click.pass_obj
def upgrade(
    settings: Settings,
    name: str | None,
    everyone: bool,  # noqa: FBT001  # click's flag
    offline: bool,  # noqa: FBT001  # click's flag
    python: str | None,
    force: bool,  # noqa: FBT001  # click's flag
) -> int:
    """Bring the agent there to this client's version; running jobs go on.

    The old version stays until the new one has answered, and comes back if it does not.
    """
    from agentctl.hosts import setup

    if (name is None) != everyone:
        raise click.UsageError("name one host, or say --all")
    book = _book()
    hosts = book.all() if name is None else (_known(book, name),)
    wish = _wish(offline=offline, python=python, force=force)
    code = 0
    for host in hosts:
        try:
            _tell(settings, setup.upgrade(book, host, wish, note))
        except AgentctlError as error:
            if not everyone:
                raise
            # One that is away keeps none of the others from theirs.
            warn(f"agentctl: {error}")
            code = code or error.exit_code
    return code


@command.command(
    "rm",
    cls=Verb,
    short_help="Remove a host.",
    examples="""
    agentctl host rm gpu1
    agentctl host rm --purge gpu1      # the jobs' output and records too
    """,
)
@click.argument("name")
@click.option("--purge", is_flag=True, help="Delete the data of its jobs too.")
@click.option(
    "--force", is_flag=True, help="Kill jobs that run; forget a host that cannot be reached."
)
@click.pass_obj
def rm(
    settings: Settings,
    name: str,
    purge: bool,  # noqa: FBT001  # click's flag
    force: bool,  # noqa: FBT001  # click's flag
) -> None:
    """Remove what `host add` brought to a server, and forget it.

    The records and the output of its jobs stay, for the day it is added again, unless --purge
    is given.
    """
    from agentctl.hosts import setup
    from agentctl.several.cache import HostCache

    book = _book()
    removed = setup.remove(book, _known(book, name), _wish(), note, purge=purge, force=force)
    HostCache.of_environment().forget(name)
    if removed.left_behind:
        warn(f"{name} is forgotten here; the server was not cleared: {removed.left_behind}")
    elif removed.is_shared:
        note(f"{name} is removed; other machines share its home and keep the installation")
    elif removed.purged:
        note(f"{name} is removed, with the data of its jobs")
    else:
        note(f"{name} is removed; the data of its jobs stay there")
    if settings.json:
        import json

        out(json.dumps({"removed": name, "cleared": not removed.left_behind}))


@command.command(
    "ls",
    cls=Verb,
    short_help="List the hosts and how they are.",
    examples="""
    agentctl host ls
    agentctl host ls --json
    """,
)
@click.pass_obj
def ls(settings: Settings) -> None:
    """List the hosts: who answers now, and of the others why not and when they last did."""
    from agentctl.several.roll import call_the_roll

    hosts = _book().all()
    if not hosts and not settings.json:
        note("there are no hosts yet; add one: agentctl host add NAME")
        return
    rows = call_the_roll(hosts, _ASK_WITHIN_S)
    if settings.json:
        out_lines(_json_lines(rows))
        return
    out_lines(_table_lines(rows))
    for line in _complaint_lines(rows):
        warn(f"agentctl: {line}")


def _json_lines(rows: list[Row]) -> list[str]:
    from agentctl.render.jobs import dump_lines
    from agentctl.render.units import format_rfc3339
    from agentctl.several.roll import STATE_WORDS, Away, Foreign

    def line(row: Row) -> dict[str, Any]:
        seen = row.seen
        return _to_json(row.host) | {
            "state": STATE_WORDS[type(row.state)].replace(" ", "-"),
            "version": row.version,
            "jobs": row.jobs,
            "last_seen_at": format_rfc3339(seen.at) if seen else None,
            "error": row.state.why if isinstance(row.state, Away | Foreign) else None,
        }

    return list(dump_lines(map(line, rows)))


def _complaint_lines(rows: list[Row]) -> list[str]:
    from datetime import UTC, datetime

    from agentctl.render.jobs import absence_line
    from agentctl.several.roll import Away, Foreign

    now = datetime.now(UTC)
    lines = []
    for row in rows:
        match row.state:
            case Away(why):
                seen_at = row.seen.at if row.seen else None
                lines.append(absence_line(row.host.name, why, seen_at, now))
            case Foreign(why):
                lines.append(f"{row.host.name}: {why}")
            case _:
                continue
    return lines


def _table_lines(rows: list[Row]) -> list[str]:
    from datetime import UTC, datetime

    from agentctl.commands.base import palette, table_width
    from agentctl.render.table import Cell, Column, join, layout
    from agentctl.render.units import format_age
    from agentctl.several.roll import STATE_WORDS, Up
    from agentctl.words import printable

    columns = (
        Column("HOST", yields=True),
        Column("ADDRESS", yields=True),
        Column("STATE"),
        Column("VERSION"),
        Column("JOBS", right=True),
        Column("LAST SEEN"),
    )
    now = datetime.now(UTC)

    def cells(row: Row) -> list[Cell]:
        is_up, seen = isinstance(row.state, Up), row.seen
        ago = "now" if is_up else f"{format_age(seen.at, now)} ago" if seen else "never"
        return [
            Cell(printable(row.host.name)),
            Cell(printable(row.host.destination)),
            Cell(STATE_WORDS[type(row.state)], "green" if is_up else "yellow"),
            Cell(printable(row.version)),
            Cell("-" if row.jobs is None else str(row.jobs), "" if is_up else "dim"),
            Cell(ago),
        ]

    painter = palette()
    grid = layout(columns, [cells(row) for row in rows], table_width())
    return [join([painter.paint(cell.text, cell.style) for cell in row]) for row in grid]


def offer_to_add(name: str) -> bool:
    """Ask the person at the terminal whether the unknown host is to be set up now; do it.

    Returns whether it is set up; False, having asked nothing, where nobody could answer.

    Raises:
        AgentctlError: It was wanted, and did not work.
        click.exceptions.Exit: It was not wanted: there is nothing more to say.
        KeyboardInterrupt: Instead of an answer.

    """
    from agentctl.hosts import setup
    from agentctl.link.names import check_name

    if not _is_person_here():
        return False
    try:
        check_name(name)
    except AgentctlError:
        return False
    question = f"{name} is not set up yet; set it up now (as: agentctl host add {name})?"
    try:
        is_wanted = click.confirm(question, default=False, err=True)
    except click.Abort:
        # Ctrl-C or Ctrl-D; the prompt has no end of line yet.
        say("")
        raise KeyboardInterrupt from None
    if not is_wanted:
        raise click.exceptions.Exit(EXIT_UNREACHABLE)
    setup.add(_book(), name, None, _wish(), note)
    return True
