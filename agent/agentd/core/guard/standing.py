"""How the guard sees host and jobs now: what a report shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core.guard.blame import Blame, blame
from agentd.core.guard.choose import victim_order
from agentd.core.guard.explain import exhausted_after_s
from agentd.core.guard.model import GuardPolicy, HostSample, Level, Look
from agentd.core.guard.state import Ending, Frozen, Held, JobTrack, Memory, Running
from agentd.core.guard.turn import Turn, freeable, holding
from agentd.core.guard.units import MIB, duration_text, size_text
from agentd.core.guard.wake import is_asleep, is_awake
from agentd.core.guard.watermarks import Watermarks, watermarks
from agentd.core.guard.whom import first_to_end, first_to_pause, merits

_NO_HOST = HostSample(0, 0, 0)
#: Farther from the warn mark than this, in warn marks, an end of memory is told only if it is
#: this close and the decline more than available memory jitters by anyway.
_NEAR_WARN = 2
_SOON_S = 600.0
_NOISE_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class JobStanding:
    """One job among the victims."""

    job_id: int
    name: str
    #: None: not looked at yet, not measured.
    upper_bytes: int | None
    held_bytes: int | None
    limit_bytes: int | None
    #: 0 while it is stopped.
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
    #: None: it does not shrink, or that is not worth saying: far away, or noise.
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
    ordered = victim_order(memory.jobs.values(), blamed)
    return Standing(
        level=memory.level,
        host=host,
        watermarks=lines,
        host_rate_bytes_per_s=memory.loss.rate_bytes_per_s(),
        exhausted_after_s=_exhausted_after_s(turn),
        jobs=tuple(_of_job(turn, track, blamed, names or {}) for track in ordered),
    )


def _of_job(turn: Turn, track: JobTrack, blamed: Blame, names: Mapping[int, str]) -> JobStanding:
    job_id = track.rules.job_id
    return JobStanding(
        job_id=job_id,
        name=names.get(job_id, ""),
        upper_bytes=None if track.sample is None else track.sample.upper_bytes,
        held_bytes=None if track.charged is None else holding(track),
        limit_bytes=track.rules.limit_bytes,
        rate_bytes_per_s=0 if _is_still(track) else track.upper.rate_bytes_per_s(),
        why=", ".join(_whys(turn, track, blamed)),
    )


def _is_still(track: JobTrack) -> bool:
    """Whether it is stopped, whoever did that: what its row of sizes says is of before."""
    return isinstance(track.stage, Frozen | Held) or is_asleep(track)


def _whys(turn: Turn, track: JobTrack, blamed: Blame) -> list[str]:
    whys = [*_doings(turn, track), *merits(turn, track, blamed), *_firsts(turn, track, blamed)]
    if track.sample is None:
        return [*whys, "not looked at yet"]
    if freed_bytes := freeable(track):
        whys.append(f"would give back {size_text(freed_bytes)}")
    return whys


def _firsts(turn: Turn, track: JobTrack, blamed: Blame) -> list[str]:
    """Return whether it would be the first of several: paused is who grows, ended anybody."""
    if len(turn.memory.jobs) < 2:  # noqa: PLR2004  # alone it is no rank
        return []
    firsts = (("paused", first_to_pause(turn, blamed)), ("ended", first_to_end(turn, blamed)))
    done = [word for word, job_id in firsts if job_id == track.rules.job_id]
    return [f"the first to be {' or '.join(done)}"] if done else []


def _doings(turn: Turn, track: JobTrack) -> list[str]:
    match track.stage:
        case Frozen():
            return ["being measured"]
        case Held(since_ns=since_ns):
            return [f"paused by the guard for {duration_text((turn.at_ns - since_ns) / 1e9)}"]
        case Ending():
            return ["being stopped by the guard"]
        case Running() if is_awake(track):
            return ["runs although it was paused"]
        case _:
            return []


def _exhausted_after_s(turn: Turn) -> float | None:
    """Return when memory is used up, if that is worth saying: soon, or close to the marks."""
    host, loss = turn.look.host, turn.memory.loss
    left_s = exhausted_after_s(host.available_bytes, host.swap_free_bytes, loss.rate_bytes_per_s())
    if left_s is None or host.available_bytes < turn.watermarks.warn_bytes * _NEAR_WARN:
        return left_s
    lost_bytes = loss.points[-1].size_bytes - loss.points[0].size_bytes
    return left_s if left_s <= _SOON_S and lost_bytes > _NOISE_BYTES else None
