"""What the agent knows, as plain values.

The fields of `Job` that stand in `JSON_FIELDS` are its JSON form: names and order are a
contract. Times are aware UTC datetimes of the host's wall clock, for people; sizes are in
bytes.
"""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

#: What a shell adds to a signal number to make an exit code of it.
SIGNAL_EXIT_BASE = 128


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    ENDED = "ended"
    START_FAILED = "start_failed"
    LOST = "lost"


FINAL_STATES = frozenset({JobState.ENDED, JobState.START_FAILED, JobState.LOST})


class Cause(StrEnum):
    """Who ended a job."""

    SELF = "self"
    USER = "user"
    GUARD = "guard"
    TIMEOUT = "timeout"
    REBOOT = "reboot"
    UNKNOWN = "unknown"


class MemAction(StrEnum):
    """What the guard does once a job is over its memory limit."""

    KILL = "kill"
    PAUSE = "pause"
    WARN = "warn"


class OutputKind(StrEnum):
    """Where a job's output goes."""

    MERGED = "merged"
    SPLIT = "split"
    FILES = "files"
    TERMINAL = "terminal"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the agent last described it. A value: it does not change by itself."""

    id: int
    name: str | None
    state: JobState
    argv: tuple[str, ...]
    cwd: str
    labels: dict[str, str]
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    #: "SIGKILL", if a signal ended the job.
    signal: str | None = None
    #: Set once the job is ending or over.
    cause: Cause | None = None
    #: One line for people, if there is something to add.
    reason: str | None = None
    pid: int | None = None
    shim_pid: int | None = None
    mem_limit_bytes: int | None = None
    #: Largest resident set of any one process of the job; known at its end.
    peak_memory_bytes: int | None = None
    #: What it uses now; None until the agent measures running jobs.
    memory_bytes: int | None = None
    #: User and system time of the whole tree; known at its end.
    cpu_s: float | None = None
    #: Bytes of output so far, dropped ones included.
    log_bytes: int = 0
    host: str = "local"
    #: Set with a memory limit.
    mem_action: MemAction | None = None
    #: Whether it is the first to go when the host runs out of memory.
    preemptible: bool = False
    #: How often it is submitted again, in all, after the guard has ended it.
    requeue_limit: int = 0
    #: The job it was requeued from.
    requeue_of: int | None = None
    #: The job it was requeued as.
    requeued_as: int | None = None
    #: When its requeue may be tried, if it waits for one; then it waits for the host's memory.
    requeue_at: datetime | None = None
    # What follows is not part of the JSON form.
    core_dumped: bool = False
    output_kind: OutputKind = OutputKind.MERGED
    #: Cursor of the event that led to this state.
    event_seq: int = 0
    #: Why the program could not be started; 0 when no errno applies.
    errno: int = 0
    #: The path that could not be used at the start.
    path: str | None = None
    #: How many requeues led to this job.
    requeue_count: int = 0
    #: Why it was not requeued though it was to be.
    requeue_cancelled: str | None = None
    #: Processes of a lost job that were still seen.
    surviving_pids: tuple[int, ...] = field(default=())

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether it ran to its end and exited with 0."""
        return self.exit_code == 0

    @property
    def exit_status(self) -> int | None:
        """The status as a shell folds it: the exit code, or 128 plus the signal's number.

        None while the job is not over, and for one that never ran or was lost.
        """
        if self.signal is not None:
            return SIGNAL_EXIT_BASE + signal_number(self.signal)
        return self.exit_code

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to end by the host's wall clock; None unless both are known."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


#: The JSON form, in order.
JSON_FIELDS = (
    "id",
    "name",
    "state",
    "argv",
    "cwd",
    "labels",
    "submitted_at",
    "started_at",
    "ended_at",
    "exit_code",
    "signal",
    "cause",
    "reason",
    "pid",
    "shim_pid",
    "mem_limit_bytes",
    "peak_memory_bytes",
    "memory_bytes",
    "cpu_s",
    "log_bytes",
    "host",
    "mem_action",
    "preemptible",
    "requeue_limit",
    "requeue_of",
    "requeued_as",
    "requeue_at",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job."""

    #: Only grows; `Client.events(after_seq=…)` goes on after it.
    seq: int
    occurred_at: datetime
    #: noun.verb_past: "job.started".
    kind: str
    #: The job as it was after the event.
    job: Job
    detail: str


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """The agent that answered."""

    warden_pid: int
    server_pid: int
    version: str
    api_level: int
    socket: str
    state_dir: str
    started_at: datetime
    #: Jobs that are not over.
    jobs: int
    total_jobs: int
    hostname: str
    #: Why the configuration on disk is not in force; empty: it is.
    config_error: str


@dataclass(frozen=True, slots=True)
class LogTime:
    """When the bytes at and after an offset were written."""

    offset: int
    written_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a log, as the job wrote them."""

    #: Logical offset of the first byte.
    offset: int
    data: bytes
    times: tuple[LogTime, ...] = ()


class GapReason(StrEnum):
    """Why bytes of a log are gone."""

    RETENTION = "retention"
    DISK_FULL = "disk_full"


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes [from_offset, to_offset) that are gone."""

    from_offset: int
    to_offset: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Fin:
    """The explicit end of a log reading."""

    next_offset: int
    #: Whether the job is over and nothing will follow.
    job_over: bool


LogItem = Chunk | Gap | Fin


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9, "SIGRTMIN+3" for 37. Pure."""
    try:
        return signals.Signals(number).name
    except ValueError:
        pass
    if signals.SIGRTMIN < number < signals.SIGRTMAX:
        return f"SIGRTMIN+{number - signals.SIGRTMIN}"
    return f"SIG{number}"


def signal_number(name: str) -> int:
    """Return the number of a signal written "USR1", "SIGUSR1", "RTMIN+3" or "10". Pure.

    Raises:
        ValueError: There is no such signal.

    """
    text = name.strip().upper().removeprefix("SIG")
    base, plus, extra = text.partition("+")
    if text.isascii() and text.isdigit():
        number = int(text)
    elif plus and base == "RTMIN" and extra.isascii() and extra.isdigit():
        number = signals.SIGRTMIN + int(extra)
    else:
        known = getattr(signals, f"SIG{text}", None) if text.isalnum() else None
        number = int(known) if isinstance(known, signals.Signals) else 0
    if not 1 <= number <= signals.SIGRTMAX:
        raise ValueError(f"{name!r} is not a signal; use a name such as USR1 or a number")
    return number
