"""What the runtime tells the edge, and what the edge asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.guard.model import MemAction
from agentd.core.job import Cause, FinalState, MergedOutput, Output, State


@dataclass(frozen=True, slots=True)
class JobSummary:
    """What of a job's spec may be listed. Never the environment."""

    id: int
    name: str
    argv: tuple[str, ...]
    cwd: str
    labels: Mapping[str, str]
    submitted_at_ns: int
    mem_limit_bytes: int | None
    output: Output
    mem_action: MemAction = MemAction.KILL
    preemptible: bool = False
    requeue_limit: int = 0
    requeue_count: int = 0
    requeue_of: int | None = None
    #: The job it was submitted again as.
    requeued_as: int | None = None

    def owes_requeue(self, final: FinalState) -> bool:
        """Say whether the job is to be submitted again after this end. Pure."""
        return final.cause is Cause.GUARD and self.requeue_count < self.requeue_limit


@dataclass(frozen=True, slots=True)
class Remarks:
    """What is known of a job beside its state, for people."""

    #: Why the guard holds it paused or is ending it; empty: it does neither.
    guard_reason: str = ""
    #: Wall clock: when its requeue may be tried. None: none waits.
    requeue_at_ns: int | None = None
    #: Why it was not requeued though it was to be; empty: nothing of the kind.
    requeue_cancelled: str = ""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it is after the event `event_seq`."""

    spec: JobSummary
    state: State
    event_seq: int


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A submit as it came in: unchecked, defaults not filled in."""

    #: Made by the client; the same key is the same job. Empty: no such promise is asked for.
    idempotency_key: str
    argv: tuple[str, ...]
    cwd: str
    #: Holds secrets: never logged, never listed.
    environment: Mapping[str, str] = field(repr=False)
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    #: None: no timeout.
    timeout_s: float | None = None
    #: None: the agent's default.
    grace_s: float | None = None
    output: Output = MergedOutput()
    #: None: /dev/null.
    stdin_path: str | None = None
    #: None: the mask the agent was started with.
    umask: int | None = None
    #: None: no limit.
    mem_limit_bytes: int | None = None
    #: None: nothing was said; with a limit the job is then killed.
    mem_action: MemAction | None = None
    preemptible: bool = False
    requeue_limit: int = 0
    #: Of a requeue only: how many led to this job, and from which job it comes.
    requeue_count: int = 0
    requeue_of: int | None = None
    #: None: the agent's default.
    log_retention_bytes: int | None = None
    #: None: the agent's default. No client asks for it; a requeue keeps its predecessor's.
    log_segment_bytes: int | None = None
    #: Soft and hard limits by name, as in `JobSpec`.
    resource_limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    #: The caller is on another machine: see `runtime.login`.
    as_login: bool = False


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list, newest first. The default lists all, page by page."""

    #: Any of these; empty: every state.
    states: frozenset[type[State]] = frozenset()
    #: Exact; empty: any.
    name: str = ""
    #: Every one of these.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Only what is not over, and the newest `recent_limit` that are.
    current_only: bool = False
    recent_limit: int = 0
    #: 0: the store's own page size.
    page_size: int = 0
    #: Only ids below this one; 0: from the newest.
    before_id: int = 0


@dataclass(frozen=True, slots=True)
class JobPage:
    """A part of a listing; `next_before_id` is 0 on the last page."""

    jobs: tuple[JobInfo, ...]
    next_before_id: int


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job, with the job as it then was."""

    seq: int
    occurred_at_ns: int
    #: noun.verb_past: job.submitted, job.started, job.ended …
    kind: str
    job: JobInfo
    #: One line for people; may be empty.
    detail: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a submit that says nothing gets; comes from the config."""

    grace_s: float = 10.0
    log_segment_bytes: int = 64 << 20
    log_retention_bytes: int = 1 << 30
