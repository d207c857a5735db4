"""Memory of jobs that have ended, on its way back to the host. Pure.

Available memory is the host's: what comes back there is not all of one job. So of several that
end together each gets its share, and none more than it held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentd.core.guard.model import CameBack, Look
from agentd.core.guard.state import Awaited, Ending, JobTrack, Memory
from agentd.core.guard.turn import Turn, holding
from agentd.core.guard.units import S_NS

#: How much of the predicted memory has to come back before the next act, and for how long at most.
CAME_BACK_SHARE = 0.6
CAME_BACK_WAIT_NS = 2 * S_NS


def with_gone(memory: Memory, look: Look, gone: Sequence[JobTrack]) -> Memory:
    """Return the memory with what jobs that are no more will give back."""
    available_bytes = look.host.available_bytes
    still = tuple(
        replace(awaited, low_bytes=min(awaited.low_bytes, available_bytes))
        for awaited in memory.awaited
    )
    new = tuple(
        _awaited(look, track, track.stage) for track in gone if isinstance(track.stage, Ending)
    )
    gone_ns = look.at_ns if gone else memory.gone_ns
    return replace(memory, awaited=still + new, gone_ns=gone_ns)


def _awaited(look: Look, track: JobTrack, stage: Ending) -> Awaited:
    return Awaited(
        job_id=track.rules.job_id,
        acted_ns=stage.since_ns,
        gone_ns=look.at_ns,
        predicted_bytes=stage.verdict.freeable_bytes,
        held_bytes=max(stage.verdict.held_bytes, holding(track)),
        low_bytes=min(stage.low_bytes, look.host.available_bytes),
    )


def came_back(turn: Turn) -> Turn:
    """Say of each job that the guard ended what came back, once it has or time is up."""
    shares = {awaited.job_id: _share_bytes(turn, awaited) for awaited in turn.memory.awaited}
    for awaited in turn.memory.awaited:
        share_bytes = shares[awaited.job_id]
        is_back = share_bytes >= awaited.predicted_bytes * CAME_BACK_SHARE
        if is_back or turn.at_ns - awaited.gone_ns >= CAME_BACK_WAIT_NS:
            turn = _told(turn, awaited, max(0, min(share_bytes, awaited.held_bytes)))
    return turn


def _share_bytes(turn: Turn, awaited: Awaited) -> int:
    """Return its part of what came back, by what was predicted of all that are gone."""
    freed_bytes = turn.available_bytes - awaited.low_bytes
    all_bytes = sum(other.predicted_bytes for other in turn.memory.awaited)
    return freed_bytes * awaited.predicted_bytes // all_bytes if all_bytes else freed_bytes


def _told(turn: Turn, awaited: Awaited, freed_bytes: int) -> Turn:
    others = tuple(other for other in turn.memory.awaited if other.job_id != awaited.job_id)
    turn = replace(turn, memory=replace(turn.memory, awaited=others))
    return _credited(turn, freed_bytes).saying(
        CameBack(
            job_id=awaited.job_id,
            freed_bytes=freed_bytes,
            took_ns=turn.at_ns - awaited.acted_ns,
            host_available_bytes=turn.available_bytes,
            host_before_bytes=awaited.low_bytes,
        )
    )


def _credited(turn: Turn, freed_bytes: int) -> Turn:
    """Return the turn with what has come back of one not counted for another as well."""
    memory = turn.memory

    def raised(low_bytes: int) -> int:
        return min(low_bytes + freed_bytes, turn.available_bytes)

    awaited = tuple(replace(other, low_bytes=raised(other.low_bytes)) for other in memory.awaited)
    jobs = {
        job_id: replace(track, stage=replace(track.stage, low_bytes=raised(track.stage.low_bytes)))
        if isinstance(track.stage, Ending)
        else track
        for job_id, track in memory.jobs.items()
    }
    return replace(turn, memory=replace(memory, awaited=awaited, jobs=jobs))
