"""What the guard's policy is given and what it answers.

Times are CLOCK_MONOTONIC nanoseconds: a suspended machine is no fast decline. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

_GIB = 1 << 30


class MemAction(StrEnum):
    """What happens to a job that is over its own limit."""

    KILL = "kill"
    PAUSE = "pause"
    WARN = "warn"


class Level(IntEnum):
    """How low the host's available memory is: the lowest mark that was crossed."""

    FINE = 0
    WARN = 1
    PAUSE = 2
    TERM = 3
    KILL = 4


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark of available memory: a share of the host's, but no more than a cap."""

    percent: float
    cap_bytes: int

    def of(self, total_bytes: int) -> int:
        """Return the mark in bytes on a host of that size. Pure."""
        return min(int(total_bytes * self.percent / 100), self.cap_bytes)


@dataclass(frozen=True, slots=True)
class Marks:
    """The host's four marks, each below the one before."""

    warn: Mark = Mark(15.0, 16 * _GIB)
    pause: Mark = Mark(8.0, 8 * _GIB)
    term: Mark = Mark(5.0, 4 * _GIB)
    kill: Mark = Mark(2.5, 2 * _GIB)


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """Section [guard] of the configuration."""

    enabled: bool = True
    #: Say what would be done, at most once a second, and do nothing.
    dry_run: bool = False
    marks: Marks = Marks()
    #: How long a job is kept paused while memory does not come back; then it is ended.
    pause_limit_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What its owner asked for a job's memory."""

    job_id: int
    limit_bytes: int | None = None
    action: MemAction = MemAction.KILL
    #: The first to go when the host runs out.
    preemptible: bool = False
    grace_s: float = 10.0
    #: Wall clock: the younger job has less progress to lose.
    started_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host's memory at one look; inside a container what the container may use."""

    at_ns: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    #: The kernel reported stalls for want of memory (PSI) within the last two seconds.
    under_pressure: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What a job really holds, shared pages counted once: enough to convict."""

    #: Anonymous and shared memory and swap; files mapped from disk can be dropped and do not count.
    held_bytes: int
    #: What would come back if the job ended.
    freeable_bytes: int


@dataclass(frozen=True, slots=True)
class JobSample:
    """One job's memory at one look."""

    job_id: int
    at_ns: int
    #: Never less than what it holds: the sum of all resident sets and of their swap.
    upper_bytes: int
    #: None: not measured at this look.
    charge: Charge | None = None
    processes: int = 0
    #: How long the measuring took, the charge's included if there is one.
    cost_ns: int = 0
    #: Some process could not be read and counts with its last value, or its shared pages in full.
    is_partial: bool = False
    #: Its charge was asked for and comes with a later sample.
    is_measuring: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Everything seen at one look. `jobs` holds those that were measured, not all there are."""

    at_ns: int
    host: HostSample
    jobs: Mapping[int, JobSample] = field(default_factory=dict)
    #: Jobs the policy must know of, measured or not: those of which a process may live.
    rules: Mapping[int, Rules] = field(default_factory=dict)
    #: Jobs that the user paused: never those held. Somebody else may have continued them since.
    paused: frozenset[int] = frozenset()
    #: Jobs whose stop ladder runs, whoever began it.
    stopping: frozenset[int] = frozenset()
    #: Jobs that the guard held and that the user has let go on since.
    resumed: frozenset[int] = frozenset()


class Trigger(StrEnum):
    """Why the guard acts on a job."""

    OWN_LIMIT = "own limit"
    HOST = "host memory"
    PAUSED_TOO_LONG = "paused too long"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a job is acted on, with the numbers of that moment: becomes verdict.json."""

    job_id: int
    trigger: Trigger
    level: Level
    held_bytes: int
    freeable_bytes: int
    limit_bytes: int | None
    #: How fast the job grew.
    rate_bytes_per_s: int
    host_total_bytes: int
    host_available_bytes: int
    host_rate_bytes_per_s: int
    #: The host's mark that was crossed, or how much was waited for in vain; 0: neither.
    mark_bytes: int = 0
    #: Why this job and no other, in words; empty: its own limit says it.
    why: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """Base of what the policy wants done, now and in this order."""


@dataclass(frozen=True, slots=True)
class Freeze(Act):
    """SIGSTOP to the whole tree, then measure its charge and ask again at once."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Thaw(Act):
    """SIGCONT: it was frozen to be measured and is innocent."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Hold(Act):
    """Leave the frozen job paused, and say so."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Release(Act):
    """Let a job that was held go on: memory is back."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Terminate(Act):
    """Begin its stop ladder: SIGTERM with SIGCONT, SIGKILL after the grace."""

    verdict: Verdict
    grace_s: float


@dataclass(frozen=True, slots=True)
class Kill(Act):
    """SIGKILL to the whole tree now."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Tell(Act):
    """Say one line to people; nothing is done. No job: about the host."""

    text: str
    job_id: int | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class CameBack(Act):
    """An act is over: how much memory came back, and how long that took."""

    job_id: int
    #: Its share of what came back; never more than it held.
    freed_bytes: int
    took_ns: int
    host_available_bytes: int
    #: The least that the host had available since the act, less what came back of others.
    host_before_bytes: int


@dataclass(frozen=True, slots=True)
class Peek:
    """What is done between two looks: to read the host's available memory, which costs 6 us."""

    every_ns: int
    #: With less than this available the next look comes at once.
    below_bytes: int


@dataclass(frozen=True, slots=True)
class NextLook:
    """When to look again, and at what."""

    #: 0: at once.
    after_ns: int
    #: Jobs whose resident sets are wanted then.
    jobs: frozenset[int] = frozenset()
    #: Jobs of these whose charge is wanted as well.
    charges: frozenset[int] = frozenset()
    #: None: nothing that the host's memory shows could make the next look come sooner.
    peek: Peek | None = None
