"""A job's own limit: proof of innocence, suspicion, measuring, verdict. Pure.

The sum of the resident sets is never less than what a job holds: at or below the limit it
proves innocence. Above it only the charge convicts, and a job of forked workers that share
memory is above it all its life; so the charge is asked for without freezing anybody.
"""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.explain import over_limit_text
from agentd.core.guard.limits import judged_limit_bytes
from agentd.core.guard.model import (
    Hold,
    Kill,
    Level,
    MemAction,
    Tell,
    Terminate,
    Trigger,
    Verdict,
)
from agentd.core.guard.rates import Gauge
from agentd.core.guard.state import Charged, Ending, Frozen, Held, JobTrack, Running, Told
from agentd.core.guard.turn import Turn
from agentd.core.guard.units import MIB, S_NS

#: Available memory jitters by this much without any job.
_NOISE_BYTES = 16 * MIB
#: A job that is being ended may grow by this before it is killed: the memory clock.
ENDING_GROWTH_BYTES = 32 * MIB
#: How often the owner of a job that may go over its limit is told, and for how much growth.
_TELL_AGAIN_NS = 60 * S_NS
_TELL_AGAIN_SHARE = 1.1


def judge_own_limits(turn: Turn) -> Turn:
    """Return the turn with every job judged by its own limit alone."""
    for track in list(turn.memory.jobs.values()):
        match track.stage:
            case Ending():
                turn = _watch_ending(turn, track, track.stage)
            case Running() if not turn.is_paused_by_user(track):
                turn = _suspect(turn, track)
            case Frozen():
                turn = _convict(turn, track)
            case _:
                pass
    return turn


def _suspect(turn: Turn, track: JobTrack) -> Turn:
    charged = _over(turn, track)
    if charged is None:
        return turn.freeze(track, Trigger.OWN_LIMIT) if _has_consumed(turn, track) else turn
    if turn.is_stopping(track):
        return _hasten(turn, track, charged)
    if track.rules.action is MemAction.WARN:
        # It is never stopped for its own limit, so it is not stopped to be measured either.
        return _tell(turn, track, charged)
    if turn.is_rebased and turn.crossed == Level.FINE:
        return turn
    return turn.freeze(track, Trigger.OWN_LIMIT)


def _has_consumed(turn: Turn, track: JobTrack) -> bool:
    """Whether the host has lost what the job would have taken to come above its limit.

    Then it is stopped before it is measured: page tables of many processes take long to be read,
    and it would grow meanwhile. Workers that share memory are above their limit by resident sets
    alone, and the host does not lose it.
    """
    sample, proof = turn.fresh(track), track.proof
    limit_bytes = judged_limit_bytes(track)
    if sample is None or proof is None or limit_bytes is None:
        return False
    if track.rules.action is MemAction.WARN or turn.is_stopping(track) or turn.is_rebased:
        return False
    if sample.upper_bytes <= limit_bytes or turn.at_ns < track.cleared_until_ns:
        return False
    lost_bytes = proof.host_available_bytes - turn.available_bytes
    return lost_bytes > max(_NOISE_BYTES, limit_bytes - proof.held_bytes)


def _over(turn: Turn, track: JobTrack) -> Charged | None:
    limit_bytes = judged_limit_bytes(track)
    charged = turn.charged(track)
    if limit_bytes is None or charged is None or charged.held_bytes <= limit_bytes:
        return None
    return charged


def _convict(turn: Turn, track: JobTrack) -> Turn:
    if _over(turn, track) is None or track.rules.action is MemAction.WARN:
        return turn
    if track.rules.action is MemAction.PAUSE:
        return hold(turn, track, turn.verdict(track, Trigger.OWN_LIMIT))
    return terminate(turn, track, turn.verdict(track, Trigger.OWN_LIMIT))


def _tell(turn: Turn, track: JobTrack, charged: Charged) -> Turn:
    told = track.told
    if told is not None and (
        turn.at_ns - told.at_ns < _TELL_AGAIN_NS
        or charged.held_bytes < told.held_bytes * _TELL_AGAIN_SHARE
    ):
        return turn
    text = over_limit_text(turn.verdict(track, Trigger.OWN_LIMIT))
    turn = turn.with_job(replace(track, told=Told(turn.at_ns, charged.held_bytes)))
    return turn.saying(Tell(text, track.rules.job_id))


def _hasten(turn: Turn, track: JobTrack, charged: Charged) -> Turn:
    """Kill a job that somebody else is stopping, if it grows past its limit meanwhile."""
    limit_bytes = judged_limit_bytes(track)
    is_past = limit_bytes is not None and charged.held_bytes > limit_bytes + ENDING_GROWTH_BYTES
    if track.rules.action is not MemAction.KILL or not is_past:
        return turn
    return kill(turn, track, turn.verdict(track, Trigger.OWN_LIMIT))


def _watch_ending(turn: Turn, track: JobTrack, stage: Ending) -> Turn:
    """The memory clock of the ladder: the shim's own counts only time."""
    sample = turn.fresh(track)
    if sample is None or stage.killed_ns is not None:
        return turn
    if stage.upper_bytes is None:
        seen = replace(stage, upper_bytes=sample.upper_bytes, processes=sample.processes)
        return turn.with_job(replace(track, stage=seen))
    charged = turn.charged(track)
    if charged is not None and _has_grown(stage.verdict.held_bytes, charged.held_bytes):
        return kill_ending(turn, track, stage)
    if not _has_grown(stage.upper_bytes, sample.upper_bytes):
        return turn
    if sample.processes <= stage.processes or turn.is_unmeasurable(track):
        return kill_ending(turn, track, stage)
    # More processes than at the verdict: a handler may have forked, and forks share.
    return turn if charged is not None else turn.asking((track.rules.job_id,))


def _has_grown(from_bytes: int, to_bytes: int) -> bool:
    return to_bytes > from_bytes + ENDING_GROWTH_BYTES


# The verdicts, for every trigger.


def hold(turn: Turn, track: JobTrack, verdict: Verdict) -> Turn:
    """Return the turn with a frozen job kept paused. How fast it grew is over with it."""
    stage = Held(verdict, turn.at_ns)
    held = replace(track, stage=stage, stopped=None, upper=Gauge(), held=Gauge())
    return turn.doing(held, Hold(verdict))


def terminate(turn: Turn, track: JobTrack, verdict: Verdict) -> Turn:
    """Return the turn with a job's stop ladder begun."""
    act = Terminate(verdict, track.rules.grace_s)
    return _in_episode(turn.doing(replace(track, stage=_ending(turn, track, verdict)), act))


def kill(turn: Turn, track: JobTrack, verdict: Verdict) -> Turn:
    """Return the turn with a job killed."""
    stage = track.stage if isinstance(track.stage, Ending) else _ending(turn, track, verdict)
    killed = replace(stage, killed_ns=turn.at_ns)
    return _in_episode(turn.doing(replace(track, stage=killed), Kill(verdict)))


def kill_ending(turn: Turn, track: JobTrack, stage: Ending) -> Turn:
    """Return the turn with a job killed that was being ended, for the same reason."""
    was = stage.verdict
    verdict = turn.verdict(track, was.trigger, was.why)
    if was.trigger is Trigger.PAUSED_TOO_LONG:
        verdict = replace(verdict, mark_bytes=was.mark_bytes)
    return kill(turn, track, verdict)


def _in_episode(turn: Turn) -> Turn:
    return replace(turn, memory=replace(turn.memory, ended_ns=turn.at_ns))


def _ending(turn: Turn, track: JobTrack, verdict: Verdict) -> Ending:
    sample = track.sample
    return Ending(
        verdict=verdict,
        since_ns=turn.at_ns,
        grace_s=track.rules.grace_s,
        upper_bytes=None if sample is None else sample.upper_bytes,
        processes=0 if sample is None else sample.processes,
        low_bytes=turn.available_bytes,
    )
