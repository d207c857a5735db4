"""A job: what was asked, and every state it can be in.

Text that came from the operating system (arguments, paths, environment values) is `str` in
the file system encoding with surrogate escapes, as `os.fsdecode` makes it. Times are wall
clock nanoseconds since the epoch and only for people; durations are never computed from
them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agentd.core.guard.model import MemAction


class Cause(StrEnum):
    """Who ended a job."""

    SELF = "self"
    USER = "user"
    GUARD = "guard"
    TIMEOUT = "timeout"
    REBOOT = "reboot"
    UNKNOWN = "unknown"


class OutputKind(StrEnum):
    """Which kind of channel a job's output goes through."""

    MERGED = "merged"
    SPLIT = "split"
    FILES = "files"
    TERMINAL = "terminal"


@dataclass(frozen=True, slots=True)
class MergedOutput:
    """stdout and stderr in one log, in the order they were written."""


@dataclass(frozen=True, slots=True)
class SplitOutput:
    """stdout and stderr in a log each."""


@dataclass(frozen=True, slots=True)
class FileOutput:
    """Straight into the user's own files, as ``nohup … > out 2> err`` does."""

    stdout_path: str
    #: None: stderr goes where stdout goes.
    stderr_path: str | None
    append: bool


@dataclass(frozen=True, slots=True)
class TerminalOutput:
    """A pseudo-terminal of the job's own."""

    columns: int
    rows: int


Output = MergedOutput | SplitOutput | FileOutput | TerminalOutput

OUTPUT_KINDS: dict[type[Output], OutputKind] = {
    MergedOutput: OutputKind.MERGED,
    SplitOutput: OutputKind.SPLIT,
    FileOutput: OutputKind.FILES,
    TerminalOutput: OutputKind.TERMINAL,
}


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for, with every default filled in. Never changes after submit."""

    id: int
    #: Random, 32 hex digits; in the job's environment as AGENTCTL_JOB_UID, so that a process
    #: can be recognised as this job's and no other agent's.
    uid: str
    idempotency_key: str
    submitted_at_ns: int
    argv: tuple[str, ...]
    cwd: str
    #: The whole environment of the leader. Holds secrets: never logged, never listed.
    environment: Mapping[str, str] = field(repr=False)
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    grace_s: float = 10.0
    output: Output = MergedOutput()
    #: None: /dev/null.
    stdin_path: str | None = None
    #: None: the mask the agent was started with.
    umask: int | None = None
    mem_limit_bytes: int | None = None
    #: What the guard does once the job is over that limit.
    mem_action: MemAction = MemAction.KILL
    #: The first to go when the host runs out of memory.
    preemptible: bool = False
    #: How often it is submitted again, in all, after the guard has ended it.
    requeue_limit: int = 0
    #: How many requeues led to this job.
    requeue_count: int = 0
    #: The job it was requeued from.
    requeue_of: int | None = None
    log_segment_bytes: int = 64 << 20
    log_retention_bytes: int = 1 << 30
    #: Soft and hard limits of setrlimit(2) by name ("nofile"); -1: unlimited. Those not named
    #: are as the agent was started.
    resource_limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for good: the pid alone may be recycled, the pair within one boot may not."""

    pid: int
    #: Field 22 of /proc/PID/stat (proc(5)).
    start_ticks: int


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the leader ended, from the raw status of wait(2)."""

    wait_status: int

    @property
    def exit_code(self) -> int | None:
        """The code it passed to exit(3), or None if a signal ended it. Pure."""
        return os.WEXITSTATUS(self.wait_status) if os.WIFEXITED(self.wait_status) else None

    @property
    def signal_number(self) -> int | None:
        """The signal that ended it, or None. Pure."""
        return os.WTERMSIG(self.wait_status) if os.WIFSIGNALED(self.wait_status) else None

    @property
    def core_dumped(self) -> bool:
        """Whether the kernel wrote a core file. Pure."""
        return os.WCOREDUMP(self.wait_status)


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What the whole tree used: getrusage(2) of the leader and of what was reaped below."""

    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    #: The most that all held at once, page cache included, where the job had a cgroup of its own;
    #: else the largest resident set of any one process of the tree.
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LeaderHandle:
    """A leader that was started and the shim that minds it."""

    started_at_ns: int
    leader: ProcessId
    #: None while no shim lives (between a kill and the rescue).
    shim_pid: int | None


@dataclass(frozen=True, slots=True)
class Queued:
    """Accepted; nothing was launched."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A shim was asked for; the program does not run yet."""


@dataclass(frozen=True, slots=True)
class Running:
    """The leader was executed."""

    handle: LeaderHandle


@dataclass(frozen=True, slots=True)
class Paused:
    """Every process of the tree has a SIGSTOP."""

    handle: LeaderHandle


@dataclass(frozen=True, slots=True)
class Stopping:
    """The stop ladder is under way. No handle: it was still starting."""

    handle: LeaderHandle | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class Ended:
    """The leader ended and its status is known."""

    started_at_ns: int
    ended_at_ns: int
    #: By the monotonic clock; None when the boot clock of the start was lost.
    duration_ns: int | None
    status: ExitStatus
    cause: Cause
    usage: ResourceUsage
    #: One line for people.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The program never ran."""

    failed_at_ns: int
    cause: Cause
    reason: str
    #: 0 when none applies.
    errno: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody saw the end."""

    noticed_at_ns: int
    cause: Cause
    reason: str
    started_at_ns: int | None = None
    surviving_pids: tuple[int, ...] = ()


ActiveState = Queued | Starting | Running | Paused | Stopping
FinalState = Ended | StartFailed | Lost
State = ActiveState | FinalState
