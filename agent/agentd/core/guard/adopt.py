"""What a new warden tells the policy of what the last one had begun. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.model import Rules, Trigger, Verdict
from agentd.core.guard.state import Ending, Frozen, Held, JobTrack, Memory


def adopt(memory: Memory, job_id: int, was: Frozen | Held | Ending) -> Memory:
    """Return the memory with one job as the last guard left it.

    A frozen one is measured and judged at the next look, a held one waits on, one that is
    being ended is watched from its next sample on. Its rules come with the next look.
    """
    track = memory.jobs.get(job_id) or JobTrack(Rules(job_id))
    return replace(memory, jobs={**memory.jobs, job_id: replace(track, stage=was)})


def was_frozen(since_ns: int) -> Frozen:
    """Return what a job is that was stopped to be measured, and not judged yet."""
    return Frozen(Trigger.HOST, since_ns)


def was_held(verdict: Verdict, since_ns: int) -> Held:
    """Return what a job is that is kept paused; `since_ns` counts for the limit of a pause."""
    return Held(verdict, since_ns)


def was_ending(
    verdict: Verdict, since_ns: int, *, grace_s: float = 10.0, is_killed: bool = False
) -> Ending:
    """Return what a job is whose stop ladder was begun, or that was killed."""
    return Ending(
        verdict=verdict,
        since_ns=since_ns,
        grace_s=grace_s,
        upper_bytes=None,
        processes=0,
        low_bytes=verdict.host_available_bytes,
        killed_ns=since_ns if is_killed else None,
    )
