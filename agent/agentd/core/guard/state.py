"""What the guard remembers from look to look. Frozen: a turn makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.core.guard.model import (
    HostSample,
    JobSample,
    Level,
    NextLook,
    Rules,
    Trigger,
    Verdict,
)
from agentd.core.guard.rates import Gauge

#: Before the first act of a job.
_NEVER_NS = -1


@dataclass(frozen=True, slots=True)
class Proof:
    """How much a job held when that was last known, at its beginning nothing; what the host had."""

    held_bytes: int
    host_available_bytes: int


@dataclass(frozen=True, slots=True)
class Running:
    """The guard does nothing to it; the user may have paused or stopped it."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Stopped by the guard to be measured calmly; judged within a few looks."""

    trigger: Trigger
    since_ns: int


@dataclass(frozen=True, slots=True)
class Held:
    """Kept paused by the guard."""

    verdict: Verdict
    since_ns: int


@dataclass(frozen=True, slots=True)
class Ending:
    """Its stop ladder was begun by the guard, or it was killed by it."""

    verdict: Verdict
    since_ns: int
    grace_s: float
    #: What it was at the verdict; None: an earlier warden's verdict, not seen since.
    upper_bytes: int | None
    processes: int
    #: The least that was available since then: what comes back is counted from there.
    low_bytes: int
    killed_ns: int | None = None


Stage = Running | Frozen | Held | Ending


@dataclass(frozen=True, slots=True)
class Charged:
    """A job's sample with its charge, and what the host had available then."""

    sample: JobSample
    held_bytes: int
    freeable_bytes: int
    host_available_bytes: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The resident sets of a job that is kept stopped. Such a job cannot grow: one that does runs.

    SIGCONT may come from anybody (kill(2)), and neither guard nor shim is told.
    """

    upper_bytes: int
    processes: int
    #: When it was last seen to have grown all the same; None: not of late, it is stopped.
    grown_ns: int | None = None
    #: How often processes were found since that had been there before, it seems.
    recounts: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """When a job's owner was last told that it is over its limit, and by how much."""

    at_ns: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class JobTrack:
    """What is known of one job."""

    rules: Rules
    stage: Stage = field(default_factory=Running)
    #: The sum of the resident sets, and what it really held.
    upper: Gauge = field(default_factory=Gauge)
    held: Gauge = field(default_factory=Gauge)
    sample: JobSample | None = None
    charged: Charged | None = None
    #: What the host had when its page tables began to be read; None: they are not.
    reading_available_bytes: int | None = None
    #: Its innocence by its own limit.
    proof: Proof | None = None
    #: What the host had available when the job was last looked at.
    seen_available_bytes: int = 0
    #: What a look without the charge costs.
    look_cost_ns: int = 0
    #: Samples that are not later than this are from before an act on the job.
    acted_ns: int = _NEVER_NS
    #: How often in a row its charge was asked for and did not come.
    unanswered: int = 0
    #: Its owner let it go on at this size although it was over its limit.
    pardoned_bytes: int | None = None
    told: Told | None = None
    #: While it is paused, by its user or by the guard.
    stopped: Stopped | None = None
    #: When a dry run last said something about it.
    spoke_ns: int = _NEVER_NS
    #: Not held for the host before this time: its owner has just resumed it.
    spared_until_ns: int = 0
    #: Not frozen for the host before this time: it was measured and found innocent.
    cleared_until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A job's size in a baseline."""

    upper_bytes: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """Host and jobs as they were before a decline."""

    at_ns: int
    available_bytes: int
    sizes: Mapping[int, Size]


@dataclass(frozen=True, slots=True)
class Awaited:
    """A job that the guard ended is gone; its memory is on its way back."""

    job_id: int
    acted_ns: int
    gone_ns: int
    predicted_bytes: int
    #: What it held in the end: no more can have come back from it.
    held_bytes: int
    low_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The guard's whole state; `Memory()` at start."""

    jobs: Mapping[int, JobTrack] = field(default_factory=dict)
    host: HostSample | None = None
    #: Of minus available memory: what grows is the loss.
    loss: Gauge = field(default_factory=Gauge)
    level: Level = Level.FINE
    #: Levels of this episode that people were told of, and of which that it is not our doing.
    told: frozenset[Level] = frozenset()
    told_not_ours: frozenset[Level] = frozenset()
    #: From when the host was last calm, and from when a job was last held.
    baseline: Baseline | None = None
    since_hold: Baseline | None = None
    #: From when memory last stopped falling, above the pause mark.
    plateau: Baseline | None = None
    #: The most that was ever available while there was no baseline.
    most_available_bytes: int = 0
    awaited: tuple[Awaited, ...] = ()
    surveyed_ns: int | None = None
    survey_cost_ns: int = 0
    released_ns: int | None = None
    #: When a job was last stopped or killed, as long as that episode lasts.
    ended_ns: int | None = None
    #: When a job was last seen to be gone, whoever ended it.
    gone_ns: int | None = None
    #: When a dry run last said something.
    spoke_ns: int | None = None
    looked_ns: int | None = None
    planned: NextLook = field(default_factory=lambda: NextLook(0))
