"""What can go wrong, as one tree of exceptions.

Every class has a stable `reason` (the agent sends it as the `agent-reason` trailer) and the
exit code the command line turns it into. A message is one line that says what happened and
what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from agentctl.model import Job

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70
EXIT_TRY_AGAIN = 75


class AgentctlError(Exception):
    """Base of everything this package raises on purpose."""

    default_reason: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(self, message: str, *, reason: str = "") -> None:
        """Keep `message`; `reason` replaces the default of the class when the agent named one."""
        super().__init__(message)
        self.reason = reason or self.default_reason
        #: Whether this answers a call that had been made before and was cut.
        self.asked_before = False


class InvalidSpecError(AgentctlError):
    """Bad input: the message names the option and what it may hold."""

    default_reason = "invalid-spec"
    exit_code = EXIT_USAGE


class RefusedError(AgentctlError):
    """Base of what was understood and cannot be done."""

    default_reason = "refused"
    exit_code = EXIT_REFUSED


class JobNotFoundError(RefusedError):
    """No job has this id or name."""

    default_reason = "job-not-found"


class AmbiguousNameError(RefusedError):
    """Several jobs have this name."""

    default_reason = "ambiguous-name"

    def __init__(self, message: str, candidates: Sequence[Job] = ()) -> None:
        """Keep the jobs that were meant, newest first."""
        super().__init__(message)
        self.candidates = tuple(candidates)


class WrongStateError(RefusedError):
    """The job's state does not allow what was asked."""

    default_reason = "wrong-state"


class DiskFullError(RefusedError):
    """The host has no room for a new job; running jobs go on."""

    default_reason = "disk-full"


class ResourceExhaustedError(RefusedError):
    """A limit other than the disk stands in the way."""

    default_reason = "resource-exhausted"


class UnsafeDirectoryError(RefusedError):
    """A directory of the agent is not ours alone, or its path is too long."""

    default_reason = "unsafe-directory"


class ApiLevelMismatchError(RefusedError):
    """Agent and client are of versions that do not understand each other."""

    default_reason = "api-level-mismatch"


class AgentNotRunningError(RefusedError):
    """No agent runs, and none was to be started for this."""

    default_reason = "agent-not-running"


class WrongAgentError(RefusedError):
    """The agent found at the socket minds another state directory than the one meant."""

    default_reason = "wrong-agent"


class ClientClosedError(AgentctlError):
    """The client was used after `close`."""

    default_reason = "client-closed"


class HostUnreachableError(AgentctlError):
    """The host, or the agent on it, cannot be reached."""

    default_reason = "host-unreachable"
    exit_code = EXIT_UNREACHABLE


class TryAgainError(AgentctlError):
    """It may well work in a moment: the agent is stopping, restarting or too slow."""

    default_reason = "try-again"
    exit_code = EXIT_TRY_AGAIN


class WaitTimeoutError(TryAgainError, TimeoutError):
    """The job was not over when the time to wait was."""

    default_reason = "wait-timeout"
