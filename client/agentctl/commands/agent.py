"""`agentctl agent`: the daemon itself."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import SHARED_OPTIONS, Settings, Verb, note, out, out_lines, palette
from agentctl.errors import (
    AgentctlError,
    AgentNotRunningError,
    HostUnreachableError,
    TryAgainError,
)

if TYPE_CHECKING:
    from agentctl.link.local import LocalLink

_LOOK_EVERY_S = 0.02
_STOP_WITHIN_S = 30.0
_START_WITHIN_S = 60.0


@click.group(params=list(SHARED_OPTIONS), no_args_is_help=True)
def command() -> None:
    """Start, stop and look at the agent that minds the jobs.

    Nobody needs to start it: the first command that needs it does. Stopping it leaves the
    jobs running; the next agent takes them over.
    """


def _link(settings: Settings) -> LocalLink:
    from agentctl.link import open_link
    from agentctl.link.local import LocalLink

    link = open_link(settings.chosen_host())
    if not isinstance(link, LocalLink):
        raise HostUnreachableError(f"the agent of {link.host} cannot be managed from here")
    return link


@command.command("start", cls=Verb, examples="agentctl agent start")
@click.pass_obj
def start(settings: Settings) -> None:
    """Start the agent unless it runs."""
    link = _link(settings)
    path = link.answering_socket()
    if path is not None:
        if link.doubt(path) is not None:
            with settings.client(start_agent=False) as client:
                client.agent_info()
        note(f"the agent runs already, pid {link.warden_pid()}")
        return
    link.connect(_START_WITHIN_S)
    note(f"the agent runs, pid {link.warden_pid()}")


@command.command(
    "stop",
    cls=Verb,
    examples="""
    agentctl agent stop
    agentctl agent stop && agentctl agent start    # after an upgrade
    """,
)
@click.pass_obj
def stop(settings: Settings) -> None:
    """End the agent; the jobs go on. With --json it says whether there was one to stop."""
    link = _link(settings)
    if link.answering_socket() is None and not link.warden_lives():
        note("no agent is running")
        _say_stopped(settings, stopped=False)
        return
    warden_pid = link.warden_pid()
    _ask_to_end(settings, link)
    deadline_s = time.monotonic() + _STOP_WITHIN_S
    while _still_there(link, warden_pid):
        if time.monotonic() > deadline_s:
            raise TryAgainError(
                f"the agent still runs after {_STOP_WITHIN_S:.0f} s; see: agentctl agent logs"
            )
        time.sleep(_LOOK_EVERY_S)
    if link.warden_lives():
        note("the agent has ended, and a command that follows a job has started the next one")
    else:
        note("the agent has ended; the jobs go on")
    _say_stopped(settings, stopped=True)


def _say_stopped(settings: Settings, *, stopped: bool) -> None:
    if settings.json:
        import json

        out(json.dumps({"stopped": stopped}))


def _still_there(link: LocalLink, warden_pid: int | None) -> bool:
    if not link.warden_lives():
        return link.answering_socket() is not None
    # Another pid is another agent: what was asked to end has ended.
    return link.warden_pid() in (warden_pid, None)


def _ask_to_end(settings: Settings, link: LocalLink) -> None:
    try:
        with settings.client(start_agent=False) as client:
            client.stop_agent()
    except AgentctlError:
        # A server that cannot answer: its warden takes a signal for the same.
        pid = link.warden_pid()
        if pid is None:
            raise
        os.kill(pid, signal.SIGTERM)


@command.command("status", cls=Verb, examples="agentctl agent status\nagentctl agent status --json")
@click.pass_obj
def status(settings: Settings) -> None:
    """Say who runs where. Exits with 1 if no agent runs."""
    from datetime import UTC, datetime

    from agentctl.render.jobs import agent_block, agent_to_json, dump_object

    with settings.client(start_agent=False) as client:
        info = client.agent_info()
    if settings.json:
        out(dump_object(agent_to_json(info)))
    else:
        out_lines(agent_block(info, datetime.now(UTC), palette()))


@command.command("logs", cls=Verb, examples="agentctl agent logs\nagentctl agent logs --tail 500")
@click.option(
    "-n", "--tail", type=click.IntRange(0), default=50, metavar="N", help="Last lines of each file."
)
@click.pass_obj
def logs(settings: Settings, tail: int) -> None:
    """Print the end of the agent's own logs, each below its name as tail(1) does."""
    settings.refuse_json("the log is JSON by itself")
    directory = _link(settings).paths.log_dir
    try:
        files = sorted(entry.path for entry in os.scandir(directory) if entry.name.endswith(".log"))
    except OSError:
        files = []
    if not files:
        raise AgentNotRunningError(f"there is no log in {directory}: no agent has run here yet")
    for number, path in enumerate(files):
        blank = "\n" if number else ""
        out(f"{blank}==> {os.path.basename(path)} <==")
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            out_lines(line.rstrip("\n") for line in deque(file, maxlen=tail))
