"""`agentctl agent`: the daemon itself."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import (
    SHARED_OPTIONS,
    Settings,
    Verb,
    client_of,
    note,
    out,
    out_lines,
    palette,
)
from agentctl.errors import AgentctlError, AgentNotRunningError, TryAgainError
from agentctl.link import LOCAL, is_local, on_host

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


def _link() -> LocalLink:
    from agentctl.link.local import LocalLink

    return LocalLink.of_environment(start_agent=True)


_START_EXAMPLES = """
agentctl agent start
agentctl -H gpu1 agent start
"""


@command.command("start", cls=Verb, examples=_START_EXAMPLES)
@click.pass_obj
def start(settings: Settings) -> None:
    """Start the agent unless it runs."""
    host = settings.chosen_host() or LOCAL
    if not is_local(host):
        _start_far(host)
        return
    link = _link()
    path = link.answering_socket()
    if path is not None:
        if link.doubt(path) is not None:
            with settings.client(start_agent=False) as client:
                client.agent_info()
        note(f"the agent runs already, pid {link.warden_pid()}")
        return
    link.connect(_START_WITHIN_S)
    note(f"the agent runs, pid {link.warden_pid()}")


def _start_far(host: str) -> None:
    pid = _warden_pid_at(host)
    if pid is not None:
        note(f"the agent on {host} runs already, pid {pid}")
        return
    with client_of(host) as client:
        note(f"the agent on {host} runs, pid {client.agent_info().warden_pid}")


def _warden_pid_at(host: str) -> int | None:
    """Return the pid of a remote host's agent, or None if there is none. Raises AgentctlError."""
    try:
        with client_of(host, start_agent=False) as client:
            return client.agent_info().warden_pid
    except AgentNotRunningError:
        return None


@command.command(
    "stop",
    cls=Verb,
    examples="""
    agentctl agent stop
    agentctl agent stop && agentctl agent start    # after an upgrade
    agentctl -H gpu1 agent stop
    """,
)
@click.pass_obj
def stop(settings: Settings) -> None:
    """End the agent; the jobs go on. With --json it says whether there was one to stop."""
    host = settings.chosen_host() or LOCAL
    stopped = _stop_here(settings) if is_local(host) else _stop_far(host)
    if settings.json:
        import json

        out(json.dumps({"stopped": stopped}))


def _stop_here(settings: Settings) -> bool:
    """Stop the agent of this machine; say whether there was one."""
    link = _link()
    if link.answering_socket() is None and not link.warden_lives():
        note("no agent is running")
        return False
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
    return True


def _stop_far(host: str) -> bool:
    """Stop the agent of a remote host; say whether there was one."""
    try:
        with client_of(host, start_agent=False) as client:
            # Asked first, on a link that may have to be mended: the other is asked once only.
            warden_pid = client.agent_info().warden_pid
            client.stop_agent()
    except AgentNotRunningError:
        note(f"no agent is running on {host}")
        return False
    deadline_s = time.monotonic() + _STOP_WITHIN_S
    while (now := _warden_pid_soon(host, warden_pid)) == warden_pid:
        if time.monotonic() > deadline_s:
            raise TryAgainError(
                f"the agent on {host} still runs after {_STOP_WITHIN_S:.0f} s; see: "
                f"{on_host(host, 'agent logs')}"
            )
        time.sleep(_LOOK_EVERY_S)
    if now is None:
        note(f"the agent on {host} has ended; the jobs go on")
    else:
        note(f"the agent on {host} has ended, and somebody there has started the next one")
    return True


def _warden_pid_soon(host: str, before: int) -> int | None:
    """Return the pid as it is now; an agent that is ending, and does not answer, is there still."""
    try:
        return _warden_pid_at(host)
    except TryAgainError:
        return before


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


_STATUS_EXAMPLES = """
agentctl agent status
agentctl agent status --json
agentctl -H gpu1 agent status
"""


@command.command("status", cls=Verb, examples=_STATUS_EXAMPLES)
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


_LOGS_EXAMPLES = """
agentctl agent logs
agentctl agent logs -f --tail 500
agentctl -H gpu1 agent logs
"""


@command.command("logs", cls=Verb, examples=_LOGS_EXAMPLES)
@click.option(
    "-n", "--tail", type=click.IntRange(0), default=50, metavar="N", help="Last lines of each file."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.pass_obj
def logs(settings: Settings, tail: int, *, follow: bool) -> None:
    """Print the end of the agent's own logs, each below its name as tail(1) does.

    The agent itself is not asked and need not run.
    """
    settings.refuse_json("the log is JSON by itself")
    host = settings.chosen_host() or LOCAL
    from agentctl.commands.agentlog import print_log

    print_log(host, tail, follow=follow)
