"""How the guard sees host and jobs now: what a report shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core.guard.blame import Blame, blame
from agentd.core.guard.choose import overuse_bytes, victim_order
from agentd.core.guard.explain import exhausted_after_s
from agentd.core.guard.model import GuardPolicy, HostSample, Level, Look
from agentd.core.guard.state import Ending, Frozen, Held, JobTrack, Memory
from agentd.core.guard.turn import Turn, freeable
from agentd.core.guard.units import duration_text, rate_text, size_text
from agentd.core.guard.watermarks import Watermarks, watermarks

_NO_HOST = HostSample(0, 0, 0)


@dataclass(frozen=True, slots=True)
class JobStanding:
    """One job among the victims."""

    job_id: int
    name: str
    upper_bytes: int
    held_bytes: int | None
    limit_bytes: int | None
    rate_bytes_per_s: int
    #: Why it stands where it stands: one line.
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The guard's whole view; the next victim comes first."""

    level: Level
    host: HostSample
    watermarks: Watermarks
    #: How fast available memory shrinks; negative: it grows.
    host_rate_bytes_per_s: int
    #: None: it does not shrink.
    exhausted_after_s: float | None
    jobs: tuple[JobStanding, ...]


def standing(
    policy: GuardPolicy, memory: Memory, names: Mapping[int, str] | None = None
) -> Standing:
    """Return how host and jobs stood at the last look. `names`: of jobs, where they are known."""
    host = _NO_HOST if memory.host is None else memory.host
    lines = watermarks(policy.marks, host.total_bytes)
    turn = Turn(policy, Look(host.at_ns, host), lines, memory, lines.crossed(host))
    blamed = blame(turn)
    rate = memory.loss.rate_bytes_per_s()
    ordered = victim_order(memory.jobs.values(), blamed)
    return Standing(
        level=memory.level,
        host=host,
        watermarks=lines,
        host_rate_bytes_per_s=rate,
        exhausted_after_s=exhausted_after_s(host.available_bytes, host.swap_free_bytes, rate),
        jobs=tuple(_of_job(turn, track, blamed, names or {}) for track in ordered),
    )


def _of_job(turn: Turn, track: JobTrack, blamed: Blame, names: Mapping[int, str]) -> JobStanding:
    job_id = track.rules.job_id
    return JobStanding(
        job_id=job_id,
        name=names.get(job_id, ""),
        upper_bytes=0 if track.sample is None else track.sample.upper_bytes,
        held_bytes=None if track.charged is None else track.charged.held_bytes,
        limit_bytes=track.rules.limit_bytes,
        rate_bytes_per_s=track.upper.rate_bytes_per_s(),
        why=", ".join(_whys(turn, track, blamed)),
    )


def _whys(turn: Turn, track: JobTrack, blamed: Blame) -> list[str]:
    whys = _doings(turn, track)
    if over_bytes := overuse_bytes(track):
        # Resident sets alone prove nothing: what several processes share counts for each.
        word = "over" if track.charged is not None else "by its resident sets over"
        whys.append(f"{word} its own limit by {size_text(over_bytes)}")
    if track.rules.preemptible:
        whys.append("preemptible")
    if blamed.explains(track.rules.job_id):
        whys.append("explains the decline")
    rate = track.upper.rate_bytes_per_s()
    if rate > 0:
        whys.append(f"growing {rate_text(rate)}")
    return [*whys, f"would give back {size_text(freeable(track))}"]


def _doings(turn: Turn, track: JobTrack) -> list[str]:
    match track.stage:
        case Frozen():
            return ["being measured"]
        case Held(since_ns=since_ns):
            return [f"paused by the guard for {duration_text((turn.at_ns - since_ns) / 1e9)}"]
        case Ending():
            return ["being stopped by the guard"]
        case _:
            return []
