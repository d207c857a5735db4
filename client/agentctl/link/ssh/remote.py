"""What is run at the far end, and what it says. Pure.

sshd hands a command to the user's login shell, and start-up files may print before it. So the
line means the same in sh, bash, zsh, csh and fish, and the answer begins at a random mark.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from agentctl.errors import (
    EXIT_TRY_AGAIN,
    AgentctlError,
    AgentNotRunningError,
    HostUnreachableError,
    InvalidSpecError,
    TryAgainError,
)
from agentctl.link.ssh.complaints import last_line

#: What ends or changes a quoted word in one of the shells.
_SPECIAL = frozenset("'\"`$\\!\n\r\0")
_CANNOT_EXECUTE = (126, 127)
#: What ssh says of a session that was refused, cut, or whose program was killed; a shell between
#: says 128 and the number of the signal.
_SSH_FAILED = 255
_SIGNALLED = range(129, 129 + 64)
_NOT_RUNNING = "no agent is running"


class FarAgent(NamedTuple):
    """Which agent it is: two that differ have different jobs of the same number."""

    hostname: str
    state_dir: str


class Hello(NamedTuple):
    """Who answers at the far end, as `agentd bridge` says."""

    version: str
    api_level: int
    socket: str
    state_dir: str
    hostname: str

    @property
    def agent(self) -> FarAgent:
        """What stays the same as long as it is the same agent."""
        return FarAgent(self.hostname, self.state_dir)


def bridge_line(agentd: str, mark: str, *, hello_only: bool, may_start: bool) -> str:
    """Return the command line for the login shell there.

    Args:
        agentd: Absolute path of the launcher.
        mark: Hexadecimal digits that nothing else prints.
        hello_only: End after the greeting.
        may_start: Start the agent if none runs.

    Raises:
        InvalidSpecError: The path cannot be written so that every shell understands it.

    """
    flags = ["--hello"] * hello_only + ["--no-start"] * (not may_start)
    return agentd_line(agentd, "bridge", *flags, "--mark", mark)


def agentd_line(agentd: str, *words: str) -> str:
    """Return the command line that runs `agentd` there with plain `words`.

    Raises:
        InvalidSpecError: The path cannot be written so that every shell understands it.

    """
    if not agentd.startswith("/") or _SPECIAL.intersection(agentd):
        raise InvalidSpecError(
            f"{agentd!a}: the agent's path on a server must be absolute, without quotes, "
            "backslashes, '$' or '!'"
        )
    return f"""exec sh -c 'exec "{agentd}" {" ".join(words)}'"""


def hello_in(output: bytes, mark: str) -> Hello | None:
    """Return the greeting behind the mark; None if there is none that can be understood."""
    _, found, rest = output.partition(f"{mark} ".encode())
    line, ended, _ = rest.partition(b"\n")
    if not found or not ended:
        return None
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match said:
        case {
            "version": str(version),
            "api_level": int(api_level),
            "socket": str(socket),
            "state_dir": str(state_dir),
            "hostname": str(hostname),
        }:
            return Hello(version, api_level, socket, state_dir, hostname)
    return None


def another_agent(name: str, now: FarAgent, before: FarAgent) -> HostUnreachableError:
    """Return the error for `now`, that answers where `before` has answered this process."""
    what, is_now, was = "machine", now.hostname, before.hostname
    if is_now == was:
        what, is_now, was = "agent", now.state_dir, before.state_dir
    is_now, was = last_line(is_now), last_line(was)
    return HostUnreachableError(
        f"{name} is another {what} now: {is_now}, it was {was}; its jobs are others; run the "
        "command again to use it, or give each a name of its own: agentctl host add"
    )


def why_no_hello(
    name: str,
    agentd: str,
    status: int,
    output: bytes,
    complaint: bytes,
    *,
    was_there: bool = False,
) -> AgentctlError:
    """Return the error for a command that ended with `status` and did not greet.

    Args:
        name: What people call the host.
        agentd: Absolute path of the launcher.
        status: As the session of ssh ended.
        output: What it wrote to stdout.
        complaint: What it wrote to stderr.
        was_there: An agent has greeted before: one that is not there now may come back, as
            with a home that is mounted late.

    """
    line = last_line(complaint.decode("utf-8", "replace")).removeprefix("agentd: ")
    if status == _SSH_FAILED or status in _SIGNALLED:
        why = line or f"status {status}"
        return TryAgainError(f"the session on {name} was cut ({why}); try again")
    if status in _CANNOT_EXECUTE:
        return _why_no_launcher(name, agentd, line, was_there=was_there)
    if status == EXIT_TRY_AGAIN:
        return TryAgainError(f"the agent on {name} is not ready: {line}; try again")
    if status and _NOT_RUNNING in complaint.decode("utf-8", "replace"):
        return AgentNotRunningError(
            f"no agent is running on {name}; start it with: agentctl -H {name} agent start"
        )
    if status:
        return HostUnreachableError(f"no way to the agent on {name}: {line or f'status {status}'}")
    noise = last_line(output.decode("utf-8", "replace")) or "nothing"
    return HostUnreachableError(
        f"{name} did not run the agent: its login shell said {noise!r}; see that a start-up "
        "file does not end or replace shells without a terminal"
    )


def _why_no_launcher(name: str, agentd: str, line: str, *, was_there: bool) -> AgentctlError:
    upgrade = f"agentctl host upgrade {name}"
    if was_there:
        return TryAgainError(
            f"{name} has no agent at {agentd} now ({line}); try again, or if it stays away "
            f"run: {upgrade}"
        )
    return HostUnreachableError(
        f"{name} has no agent at {agentd} any more ({line}); run: {upgrade}"
    )
