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
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Begin the stop ladder over the whole tree, or shorten the one under way."""

    job_id: int
    grace_s: float
    cause: Cause


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


def _build(kind: type[Message], body: dict[str, Any]) -> Message:
    known = {f.name for f in dataclasses.fields(kind)}
    values = {name: value for name, value in body.items() if name in known}
    if "cause" in values:
        values["cause"] = Cause(values["cause"])
    if "output" in values:
        values["output"] = OutputKind(values["output"])
    if "view" in values:
        values["view"] = _build(JobView, values["view"])
    if "jobs" in values:
        values["jobs"] = tuple(_build(JobView, view) for view in values["jobs"])
    for name in ("surviving_pids", "descriptors"):
        if name in values:
            values[name] = tuple(values[name])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
