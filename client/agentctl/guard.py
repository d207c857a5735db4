"""The guard as the agent last described it, as plain values. Sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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
    #: Never less than what it holds: the sum of its processes' resident sets.
    upper_bytes: int
    #: What it really holds, shared pages counted once. None: not measured, for want of a reason.
    held_bytes: int | None
    limit_bytes: int | None
    #: Negative: it shrinks.
    growing_bytes_per_s: int
    #: Why it stands where it stands in the order: one line.
    why: str

    @property
    def headroom_bytes(self) -> int | None:
        """What is left of its limit, at least; negative: it is over. None: it has none."""
        if self.limit_bytes is None:
            return None
        used = self.upper_bytes if self.held_bytes is None else self.held_bytes
        return self.limit_bytes - used


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
