"""Whose doing a decline of the host's memory is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core.guard.state import Baseline, JobTrack, Memory
from agentd.core.guard.turn import Turn, holding, upper_now
from agentd.core.guard.units import MIB

#: Below this share of the loss our jobs have not brought it about.
_OURS_SHARE = 0.3
#: From this share on a job explains it.
_EXPLAINS_SHARE = 0.5
#: Available memory jitters by this much without any job.
_NOISE_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Blame:
    """How much the host has lost since a decline began, and how much each job has grown."""

    loss_bytes: int
    grown_bytes: Mapping[int, int]
    #: Whether our jobs have brought it about.
    is_ours: bool

    def explains(self, job_id: int) -> bool:
        """Whether the job has grown by at least half of what the host has lost."""
        grown_bytes = self.grown_bytes.get(job_id, 0)
        return self.is_ours and grown_bytes >= self.loss_bytes * _EXPLAINS_SHARE

    def shares(self, job_id: int) -> bool:
        """Whether it explains it alone or is one of several that do so together.

        Three jobs that grow alike explain a third each: one that has grown by at least half of
        what the fastest has is meant as well.
        """
        grown_bytes = self.grown_bytes.get(job_id, 0)
        most_bytes = max(self.grown_bytes.values(), default=0)
        return self.is_ours and 0 < grown_bytes >= most_bytes * _EXPLAINS_SHARE


def blame(turn: Turn) -> Blame:
    """Return whose doing the decline is since the host was last calm."""
    baseline = turn.memory.baseline
    return _without_baseline(turn) if baseline is None else _since(turn, baseline)


def blame_since_hold(turn: Turn) -> Blame:
    """Return whose doing it is that memory declines although a job was held, if one was.

    The job that is held has explained what was lost until then; it cannot explain more.
    """
    since = turn.memory.since_hold
    return blame(turn) if since is None else _since(turn, since)


def _since(turn: Turn, baseline: Baseline) -> Blame:
    loss_bytes = baseline.available_bytes - turn.available_bytes
    grown = {job_id: _grown(track, baseline) for job_id, track in turn.memory.jobs.items()}
    is_decline = loss_bytes > _NOISE_BYTES
    return Blame(loss_bytes, grown, is_decline and sum(grown.values()) >= loss_bytes * _OURS_SHARE)


def _grown(track: JobTrack, baseline: Baseline) -> int:
    size = baseline.sizes.get(track.rules.job_id)
    grown_bytes = upper_now(track) - (0 if size is None else size.upper_bytes)
    # Forks share what they are counted for: a job cannot have grown by more than it holds.
    return max(0, min(grown_bytes, holding(track)))


def _without_baseline(turn: Turn) -> Blame:
    """Judge by shares of what is used: the guard began on a host that was full already."""
    memory = turn.memory
    used_bytes = turn.look.host.total_bytes - turn.available_bytes
    sizes = {job_id: holding(track) for job_id, track in memory.jobs.items()}
    is_decline = _has_declined(memory, turn)
    is_ours = is_decline and sum(sizes.values()) >= used_bytes * _EXPLAINS_SHARE
    return Blame(used_bytes, sizes, is_ours)


def _has_declined(memory: Memory, turn: Turn) -> bool:
    return memory.most_available_bytes - turn.available_bytes > _NOISE_BYTES
