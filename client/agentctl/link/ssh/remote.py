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
_NOT_RUNNING = "no agent is running"


class Hello(NamedTuple):
    """Who answers at the far end, as `agentd bridge` says."""

    version: str
    api_level: int
    socket: str
    state_dir: str
    hostname: str


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
    if not agentd.startswith("/") or _SPECIAL.intersection(agentd):
        raise InvalidSpecError(
            f"{agentd!a}: the agent's path on a server must be absolute, without quotes, "
            "backslashes, '$' or '!'"
        )
    flags = ["--hello"] * hello_only + ["--no-start"] * (not may_start)
    words = " ".join(["bridge", *flags, "--mark", mark])
    return f"""exec sh -c 'exec "{agentd}" {words}'"""


def hello_in(output: bytes, mark: str) -> Hello | None:
    """Return the greeting behind the mark; None if there is none that can be understood."""
    _, found, rest = output.partition(f"{mark} ".encode())
    line, ended, _ = rest.partition(b"\n")
    if not found or not ended:
        return None
    try:
        said = json.loads(line)
        return Hello(
            version=str(said["version"]),
            api_level=int(said["api_level"]),
            socket=str(said["socket"]),
            state_dir=str(said["state_dir"]),
            hostname=str(said["hostname"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def why_no_hello(
    name: str, agentd: str, status: int, output: bytes, complaint: bytes
) -> AgentctlError:
    """Return the error for a command that ended with `status` and did not greet."""
    line = last_line(complaint.decode("utf-8", "replace")).removeprefix("agentd: ")
    if status in _CANNOT_EXECUTE:
        return HostUnreachableError(
            f"{name} has no agent at {agentd} any more ({line}); run: agentctl host upgrade {name}"
        )
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
