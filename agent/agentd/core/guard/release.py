"""Jobs that the guard keeps paused: when they go on, and when it has been too long. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.model import Level, Release, Thaw, Trigger
from agentd.core.guard.own_limit import terminate
from agentd.core.guard.state import Frozen, Held, JobTrack, Memory, Running
from agentd.core.guard.turn import Turn
from agentd.core.guard.units import S_NS

#: Available memory at which a held job goes on, in pause marks.
_RELEASE_AT = 1.5
#: What it needs on top: what it would take in this time at the rate it had.
_NEED_S = 1.0
#: One at a time: what the last one does is seen before the next goes on.
_RELEASE_GAP_NS = 2 * S_NS


def look_after_held(turn: Turn) -> Turn:
    """Return the turn with a job released, or ended that was held too long."""
    held = _held_for_host(turn)
    for position, (track, stage) in enumerate(held):
        if turn.available_bytes >= release_at_bytes(turn, stage):
            if position == 0 and _may_release(turn):
                turn = _released(turn, track)
        elif turn.at_ns - stage.since_ns >= turn.policy.pause_limit_s * S_NS:
            turn = _ended(turn, track, stage)
    return turn


def _held_for_host(turn: Turn) -> list[tuple[JobTrack, Held]]:
    """Return the jobs that wait for the host's memory, the longest held first."""
    held = [
        (track, track.stage)
        for track in turn.memory.jobs.values()
        if isinstance(track.stage, Held) and track.stage.verdict.trigger is not Trigger.OWN_LIMIT
    ]
    return sorted(held, key=lambda pair: pair[1].since_ns)


def release_at_bytes(turn: Turn, stage: Held) -> int:
    """Return how much has to be available for a held job to go on: it can always come to that."""
    pause_bytes = turn.watermarks.of(Level.PAUSE)
    need_bytes = min(int(stage.verdict.rate_bytes_per_s * _NEED_S), pause_bytes)
    half_way_bytes = (pause_bytes + turn.look.host.total_bytes) // 2
    return min(int(pause_bytes * _RELEASE_AT) + need_bytes, half_way_bytes)


def let_all_go(turn: Turn) -> Turn:
    """Return the turn with nothing frozen or held any more: the guard does nothing from now on."""
    for track in list(turn.memory.jobs.values()):
        match track.stage:
            case Held():
                turn = _released(turn, track)
            case Frozen():
                turn = turn.thaw(track)
            case _:
                pass
    return turn


def without_doings(memory: Memory) -> Memory:
    """Return what is remembered without what the guard was about."""
    jobs = {
        job_id: track if isinstance(track.stage, Running) else replace(track, stage=Running())
        for job_id, track in memory.jobs.items()
    }
    return replace(memory, jobs=jobs, awaited=())


def _may_release(turn: Turn) -> bool:
    if turn.memory.awaited or any(isinstance(act, Thaw) for act in turn.acts):
        return False
    released_ns = turn.memory.released_ns
    return released_ns is None or turn.at_ns - released_ns >= _RELEASE_GAP_NS


def _released(turn: Turn, track: JobTrack) -> Turn:
    job_id = track.rules.job_id
    turn = turn.doing(replace(track, stage=Running()), Release(job_id))
    return replace(turn, memory=replace(turn.memory, released_ns=turn.at_ns))


def _ended(turn: Turn, track: JobTrack, stage: Held) -> Turn:
    if turn.charged(track) is None and not turn.is_unmeasurable(track):
        return turn.asking((track.rules.job_id,))
    if turn.fresh(track) is None:
        return turn
    verdict = turn.verdict(track, Trigger.PAUSED_TOO_LONG)
    return terminate(turn, track, replace(verdict, mark_bytes=release_at_bytes(turn, stage)))
