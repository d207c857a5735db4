"""What server, warden and shim say to each other.

One JSON object a message: a line on the socketpair between server and warden, a packet on
the control socket between warden and shim. A message is a frozen dataclass whose class
name travels as ``"type"``; unknown types and unknown fields are skipped by the receiver, so
that a newer warden can talk to an older shim. Files hold the truth; messages only say where
to look.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentd.core.guard.model import MemAction
from agentd.core.job import Cause, OutputKind


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages."""


# Server to warden. The ones about a running job are passed on to its shim unchanged.


@dataclass(frozen=True, slots=True)
class Launch(Message):
    """Start the job whose directory is complete. Asked twice, done once."""

    job_id: int
    #: What the shim has to open before it knows more of the job.
    output: OutputKind
    #: What the guard has to know of the job; 0: no limit of its own.
    mem_limit_bytes: int = 0
    mem_action: MemAction = MemAction.KILL
    preemptible: bool = False
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Begin the stop ladder over the whole tree, or shorten the one under way."""

    job_id: int
    grace_s: float
    cause: Cause
    #: One line for people; becomes the reason of the end.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SendSignal(Message):
    """Send one signal to every process of the job's leading process group."""

    job_id: int
    signal_number: int


@dataclass(frozen=True, slots=True)
class Pause(Message):
    """SIGSTOP to the whole tree."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Resume(Message):
    """SIGCONT to the whole tree."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Sweep(Message):
    """End what a lost job left behind: found by its uid in their environment."""

    job_id: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class SetGuard(Message):
    """The guard's policy from now on. A mark is (percent of the host's memory, cap in bytes)."""

    enabled: bool
    dry_run: bool
    pause_limit_s: float
    warn: tuple[float, int]
    pause: tuple[float, int]
    term: tuple[float, int]
    kill: tuple[float, int]


@dataclass(frozen=True, slots=True)
class UseCgroup(Message):
    """The spawner was moved below this delegated cgroup: jobs get one of their own in it."""

    path: str
    spawner_pid: int


@dataclass(frozen=True, slots=True)
class ReportGuard(Message):
    """Answer with a GuardReport of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The server answers RPCs on this socket."""

    socket: str


@dataclass(frozen=True, slots=True)
class Shutdown(Message):
    """End the agent; the jobs go on."""


# Warden to server; the ones about one job come from its shim.


@dataclass(frozen=True, slots=True)
class JobView(Message):
    """One job the warden minds. `phase`: starting, running, paused or stopping."""

    job_id: int
    phase: str
    started_at_ns: int = 0
    leader_pid: int = 0
    leader_start_ticks: int = 0
    shim_pid: int = 0
    cause: Cause = Cause.UNKNOWN


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message to a new server: the whole truth about what lives."""

    warden_pid: int
    started_at_ns: int
    jobs: tuple[JobView, ...] = field(default=())
    #: Who is to be moved into a delegated cgroup, if there can be one; 0: nobody now.
    spawner_pid: int = 0
    #: The cgroup in use; empty: none.
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class JobStarted(Message):
    """The leader was executed."""

    job_id: int
    started_at_ns: int
    leader_pid: int
    leader_start_ticks: int
    shim_pid: int


@dataclass(frozen=True, slots=True)
class JobPaused(Message):
    """The whole tree is stopped (SIGSTOP)."""

    job_id: int


@dataclass(frozen=True, slots=True)
class JobResumed(Message):
    """The whole tree goes on."""

    job_id: int


@dataclass(frozen=True, slots=True)
class JobStopping(Message):
    """The stop ladder has begun, or the leader has ended and what it left is being stopped."""

    job_id: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class ShimReplaced(Message):
    """The job's shim was killed; a rescue shim took over."""

    job_id: int
    shim_pid: int


@dataclass(frozen=True, slots=True)
class JobRecorded(Message):
    """exit.json is durable."""

    job_id: int


@dataclass(frozen=True, slots=True)
class JobGone(Message):
    """No shim, no exit record, and the leader was started: nobody will know the end."""

    job_id: int
    rebooted: bool
    surviving_pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """The warden cannot do what was asked; nothing was changed."""

    job_id: int
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class SpawnerStarted(Message):
    """Another spawner took over, outside of any delegated cgroup."""

    spawner_pid: int


class NoticeKind(StrEnum):
    """What the guard has done, or would have done."""

    WARNED = "warned"
    PAUSED = "paused"
    RELEASED = "released"
    TERMINATED = "terminated"
    KILLED = "killed"
    CAME_BACK = "came_back"
    WOULD_ACT = "would_act"


@dataclass(frozen=True, slots=True)
class GuardNotice(Message):
    """Something the guard did or saw. No job: about the host."""

    kind: NoticeKind
    occurred_at_ns: int
    text: str
    job_id: int = 0


@dataclass(frozen=True, slots=True)
class GuardJob(Message):
    """One job as the guard sees it; the next victim comes first."""

    job_id: int
    #: Sum of the resident sets, None: not looked at yet; what it really holds if it was measured.
    upper_bytes: int | None
    held_bytes: int | None
    limit_bytes: int | None
    rate_bytes_per_s: int
    #: Why it stands where it stands: one line.
    why: str


@dataclass(frozen=True, slots=True)
class GuardReport(Message):
    """The guard's whole view of host and jobs."""

    number: int
    enabled: bool
    dry_run: bool
    #: What is in force, and what is not and why: one line each.
    layers: tuple[str, ...]
    host_total_bytes: int
    host_available_bytes: int
    #: How fast available memory shrinks; negative: it grows.
    host_rate_bytes_per_s: int
    #: None: it does not shrink.
    exhausted_after_s: float | None
    warn_bytes: int
    pause_bytes: int
    term_bytes: int
    kill_bytes: int
    jobs: tuple[GuardJob, ...] = ()
    notices: tuple[GuardNotice, ...] = ()


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """End now: finish the RPCs under way, take no new ones."""


# Only between warden and shim.


@dataclass(frozen=True, slots=True)
class Adopt(Message):
    """A new warden asks for the job's view and, by SCM_RIGHTS, its descriptors."""


@dataclass(frozen=True, slots=True)
class Adopted(Message):
    """The answer: `descriptors` names those that come with it, in order."""

    view: JobView
    descriptors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaderExited(Message):
    """To a rescue shim from its warden, the leader's new parent: the status, not yet reaped."""

    job_id: int
    wait_status: int
    cpu_user_s: float
    cpu_system_s: float
    peak_memory_bytes: int


def _subclasses(of: type[Message]) -> dict[str, type[Message]]:
    return {kind.__name__: kind for kind in of.__subclasses__()}


_KINDS = _subclasses(Message)


def _plain(message: object) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, and every page it touches a shim keeps.
    if not isinstance(message, Message):
        raise TypeError(f"{type(message).__name__} does not travel")
    names: tuple[str, ...] = tuple(type(message).__slots__)
    return {"type": type(message).__name__, **{name: getattr(message, name) for name in names}}


_encoder = json.JSONEncoder(separators=(",", ":"), default=_plain)


def encode(message: Message) -> bytes:
    """Return the message as one line of JSON without the newline. Pure."""
    return _encoder.encode(message).encode()


def decode(line: bytes) -> Message | None:
    """Return the message, or None for a type this version does not know. Pure.

    Raises:
        ValueError: The line is not a JSON object or lacks a field.

    """
    body = json.loads(line)
    if not isinstance(body, dict):
        raise ValueError("a message is a JSON object")
    kind = _KINDS.get(body.pop("type", ""))
    return None if kind is None else _build(kind, body)


_WORDS: dict[str, type[StrEnum]] = {
    "cause": Cause,
    "output": OutputKind,
    "mem_action": MemAction,
    "kind": NoticeKind,
}
_ARRAYS = frozenset(
    {"descriptors", "jobs", "kill", "layers", "notices", "pause", "surviving_pids", "term", "warn"}
)
_ELEMENTS: dict[tuple[type[Message], str], type[Message]] = {
    (Hello, "jobs"): JobView,
    (GuardReport, "jobs"): GuardJob,
    (GuardReport, "notices"): GuardNotice,
}


def _build(kind: type[Message], body: dict[str, Any]) -> Message:
    known = {f.name for f in dataclasses.fields(kind)}
    values = {name: value for name, value in body.items() if name in known}
    for name, word in _WORDS.items():
        if name in values:
            values[name] = word(values[name])
    if "view" in values:
        values["view"] = _build(JobView, values["view"])
    for name in _ARRAYS & values.keys():
        element = _ELEMENTS.get((kind, name))
        values[name] = tuple(
            values[name] if element is None else (_build(element, body) for body in values[name])
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
