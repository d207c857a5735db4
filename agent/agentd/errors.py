"""The agent's errors: one tree, no gRPC.

Each class has a stable `reason`, which travels to the client as the `agent-reason` trailer.
The edge maps reasons to status codes once; messages are one line, say what happened and
what to do next, and never hold environment values.
"""

from __future__ import annotations

# Not from typing: every shim is forked with what its modules import (see shim.spawning).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class AgentError(Exception):
    """Base of everything the agent reports on purpose."""

    reason: ClassVar[str] = "internal"


class InvalidSpecError(AgentError):
    """Bad input: the message names the field and what it may hold."""

    reason = "invalid-spec"


class JobNotFoundError(AgentError):
    """No job has this id."""

    reason = "job-not-found"


class WrongStateError(AgentError):
    """The job's state does not allow what was asked."""

    reason = "wrong-state"


class DiskFullError(AgentError):
    """There is no room for what a new job needs; running jobs go on."""

    reason = "disk-full"


class ResourceExhaustedError(AgentError):
    """A limit other than the disk stands in the way."""

    reason = "resource-exhausted"


class DrainingError(AgentError):
    """The agent is stopping; ask again once it is back."""

    reason = "draining"


class WardenGoneError(AgentError):
    """The warden does not answer; ask again once it is back."""

    reason = "warden-gone"


class GuardSilentError(AgentError):
    """The guard did not answer in time; it goes on guarding all the same."""

    reason = "guard-silent"


class AlreadyRunningError(AgentError):
    """Another agent holds the lock."""

    reason = "already-running"


class UnsafeDirectoryError(AgentError):
    """A directory is not ours, a symlink, open to others, or its path too long."""

    reason = "unsafe-directory"


class SystemCallError(AgentError):
    """The kernel refused; the message holds the action, the path and the errno."""

    reason = "system-call"

    def __init__(self, action: str, error: OSError) -> None:
        """Wrap `error`, raised while doing `action` ("open the pidfile")."""
        super().__init__(f"cannot {action}: {error.strerror or error} (errno {error.errno})")
        self.errno = error.errno or 0


class RecordCorruptError(AgentError):
    """A file in a job directory is torn, empty or not ours."""

    reason = "record-corrupt"


class StoreCorruptError(AgentError):
    """The index is damaged; it is set aside and rebuilt at the next start."""

    reason = "store-corrupt"


class ApiLevelMismatchError(AgentError):
    """Client and agent speak different wire levels; the message names both."""

    reason = "api-level-mismatch"


class VersionMismatchError(AgentError):
    """The client's version is too far from the agent's; the message names both."""

    reason = "version-mismatch"


class PortRefusedError(AgentError):
    """What a forward leads to does not take the connection; the message names it."""

    reason = "port-refused"
