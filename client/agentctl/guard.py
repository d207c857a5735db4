"""The guard as the agent last described it, as plain values. Sizes are in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from agentctl.model import JobState, MemAction


class Mark(StrEnum):
    """A watermark of the host's available memory, and what the guard does below it."""

    WARN = "warn"
    PAUSE = "pause"
    TERM = "term"
    KILL = "kill"


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
class MarkRule:
    """A mark as it is configured: the smaller of the two counts."""

    #: Of the host's memory.
    percent: float
    cap_bytes: int


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The host's memory; inside a container what the container may use."""

    total_bytes: int
    available_bytes: int
    #: How fast available memory shrinks; negative: it grows.
    falling_bytes_per_s: int
    #: None: it does not shrink.
    exhausted_after_s: float | None
    warn_bytes: int
    pause_bytes: int
    term_bytes: int
    kill_bytes: int
    #: What the marks come from; empty: the agent does not know.
    rules: Mapping[Mark, MarkRule] = field(default_factory=dict)

    def mark_bytes(self, mark: Mark) -> int:
        """Return how much available memory that mark is. Pure."""
        return {
            Mark.WARN: self.warn_bytes,
            Mark.PAUSE: self.pause_bytes,
            Mark.TERM: self.term_bytes,
            Mark.KILL: self.kill_bytes,
        }[mark]

    @property
    def crossed(self) -> Mark | None:
        """The lowest mark that available memory is below."""
        below = [mark for mark in Mark if self.available_bytes < self.mark_bytes(mark)]
        return below[-1] if below else None


@dataclass(frozen=True, slots=True)
class GuardedJob:
    """One job as the guard sees it."""

    job_id: int
    name: str | None
    #: Never less than what it holds: the sum of its processes' resident sets. None: not looked
    #: at yet.
    upper_bytes: int | None
    #: What it really holds, shared pages counted once. None: not measured, for want of a reason.
    held_bytes: int | None
    limit_bytes: int | None
    #: Negative: it shrinks.
    growing_bytes_per_s: int
    #: Why it stands where it stands in the order: one line.
    why: str
    #: None: the agent does not know it any more.
    state: JobState | None = None
    preemptible: bool = False
    #: None: it has no limit of its own.
    mem_action: MemAction | None = None

    @property
    def headroom_bytes(self) -> int | None:
        """What is left of its limit, at least; negative: it is over.

        None: it has none, or was not looked at yet.
        """
        used_bytes = self.upper_bytes if self.held_bytes is None else self.held_bytes
        if self.limit_bytes is None or used_bytes is None:
            return None
        return self.limit_bytes - used_bytes


@dataclass(frozen=True, slots=True)
class GuardNotice:
    """Something the guard did or saw."""

    kind: NoticeKind
    occurred_at: datetime
    text: str
    #: None: about the host.
    job_id: int | None


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard's view of host and jobs at one moment."""

    enabled: bool
    #: It says what it would do, and does nothing.
    dry_run: bool
    #: What is in force, and what is not and why: one line each.
    layers: tuple[str, ...]
    host: HostMemory
    #: The next to be acted on comes first.
    jobs: tuple[GuardedJob, ...]
    #: Oldest first.
    notices: tuple[GuardNotice, ...]
    #: Why the configuration on disk is not in force; empty: it is.
    config_error: str = ""
    #: How long a job is kept paused for the host; None: the agent does not know.
    pause_limit_s: float | None = None
