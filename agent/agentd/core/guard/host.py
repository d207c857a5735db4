"""The host's marks: who is held, ended, killed when the machine runs out. Pure.

Freezing stops growth, ending gives memory back. So at the pause mark only jobs that grow are
stopped, and from the term mark on the smallest set that gives back enough is ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentd.core.guard.blame import Blame, blame, blame_since_hold
from agentd.core.guard.choose import smallest_set, victim_order
from agentd.core.guard.comeback import CAME_BACK_SHARE, CAME_BACK_WAIT_NS
from agentd.core.guard.model import Hold, Level, Trigger
from agentd.core.guard.observe import baseline_of
from agentd.core.guard.own_limit import hold, kill, kill_ending, terminate
from agentd.core.guard.state import Ending, Frozen, Held, JobTrack, Running
from agentd.core.guard.telling import tell_level, tell_not_ours
from agentd.core.guard.turn import Turn, freeable
from agentd.core.guard.units import MIB, S_NS
from agentd.core.guard.whom import may_be_paused, why_ended, why_paused

#: Memory wanted beyond the term mark, as a share of it: one act is to be enough.
_BUFFER_SHARE = 0.25
#: Memory on its way back that is less than this share of what is needed is not waited for.
_MATTERS_SHARE = 0.25
#: How long a job that was frozen and found innocent is not frozen for the host again.
_CLEARED_NS = S_NS
#: Nor for so many times what that took: it was stopped meanwhile.
_CLEARED_COST_FACTOR = 50
#: Slower than this a job's resident sets do not grow.
_GROWS_BYTES_PER_S = 64 * MIB


def guard_host(turn: Turn) -> Turn:
    """Return the turn with the host's marks looked after."""
    turn = tell_level(turn)
    if turn.crossed >= Level.KILL:
        turn = _kill_convicts(turn)
    if turn.crossed >= Level.PAUSE:
        turn = tell_not_ours(turn)
    if turn.crossed >= Level.TERM:
        turn = _end_jobs(turn)
    if turn.crossed >= Level.PAUSE:
        turn = _hold_jobs(turn)
    return _thaw_innocent(turn)


# Waiting for memory to come back.


def credit_bytes(turn: Turn) -> int:
    """Return what jobs that are being ended have still to give back."""
    predicted_bytes, lows = 0, [turn.available_bytes]
    for awaited in turn.memory.awaited:
        predicted_bytes += awaited.predicted_bytes
        lows.append(awaited.low_bytes)
    for track in turn.memory.jobs.values():
        if isinstance(track.stage, Ending) and _may_still_end(turn, track.stage):
            predicted_bytes += freeable(track)
            lows.append(track.stage.low_bytes)
        elif track.rules.job_id in turn.look.stopping and isinstance(track.stage, Running):
            predicted_bytes += freeable(track)
    return max(0, predicted_bytes - (turn.available_bytes - min(lows)))


def _may_still_end(turn: Turn, stage: Ending) -> bool:
    if stage.killed_ns is not None:
        return turn.at_ns - stage.killed_ns < CAME_BACK_WAIT_NS
    return turn.at_ns - stage.since_ns < stage.grace_s * S_NS + CAME_BACK_WAIT_NS


def is_waiting(turn: Turn) -> bool:
    """Whether memory of a killed or ended job is on its way back: no new victim until then.

    What matters little is not waited for, and neither is what is killed at this very look: who
    else has to go is chosen together with it.
    """
    matters_bytes = needed_bytes(turn) * _MATTERS_SHARE
    if any(awaited.predicted_bytes >= matters_bytes for awaited in turn.memory.awaited):
        return True
    stages = (track.stage for track in turn.memory.jobs.values())
    return any(
        isinstance(stage, Ending)
        and stage.killed_ns is not None
        and 0 < turn.at_ns - stage.killed_ns < CAME_BACK_WAIT_NS
        and stage.verdict.freeable_bytes >= matters_bytes
        and turn.available_bytes - stage.low_bytes < stage.verdict.freeable_bytes * CAME_BACK_SHARE
        for stage in stages
    )


def needed_bytes(turn: Turn) -> int:
    """Return what has to come back: up to the term mark and a buffer."""
    wanted_bytes = int(turn.watermarks.term_bytes * (1 + _BUFFER_SHARE))
    return wanted_bytes - turn.available_bytes


# The marks.


def _kill_convicts(turn: Turn) -> Turn:
    """At the kill mark the grace of those that are being ended is over, as far as is needed."""
    convicts = [
        track
        for track in turn.memory.jobs.values()
        if isinstance(track.stage, Ending)
        and track.stage.killed_ns is None
        and turn.fresh(track) is not None
    ]
    killed_bytes = credit_bytes(turn) - sum(freeable(track) for track in convicts)
    needed = needed_bytes(turn) - max(0, killed_bytes)
    if is_waiting(turn) or needed <= 0:
        return turn
    for track in smallest_set(victim_order(convicts, blame(turn)), needed):
        assert isinstance(track.stage, Ending)  # noqa: S101  # chosen above; for the type checker
        turn = kill_ending(turn, track, track.stage)
    return turn


def _end_jobs(turn: Turn) -> Turn:
    blamed = blame(turn)
    needed = needed_bytes(turn) - credit_bytes(turn)
    if not blamed.is_ours or needed <= 0 or is_waiting(turn):
        return turn
    candidates = [
        track
        for track in turn.memory.jobs.values()
        if turn.fresh(track) is not None and _may_be_ended(turn, track)
    ]
    chosen = smallest_set(_order(turn, candidates, blamed), needed)
    unmeasured = [track for track in chosen if not _is_measured(turn, track)]
    if unmeasured:
        return _measure(turn, chosen, unmeasured)
    verdicts = [turn.verdict(t, Trigger.HOST, why_ended(turn, t, blamed)) for t in chosen]
    do = kill if turn.crossed >= Level.KILL else terminate
    for track, verdict in zip(chosen, verdicts, strict=True):
        turn = do(turn, track, verdict)
    return turn


def _may_be_ended(turn: Turn, track: JobTrack) -> bool:
    if isinstance(track.stage, Ending):
        return False
    if turn.crossed < Level.KILL and turn.charged(track) is None and turn.is_unmeasurable(track):
        # Resident sets convict nobody while there is still time.
        return False
    # A ladder that somebody else began is only hastened at the very end.
    return not turn.is_stopping(track) or turn.crossed >= Level.KILL


def _order(turn: Turn, tracks: Sequence[JobTrack], blamed: Blame) -> list[JobTrack]:
    ordered = victim_order(tracks, blamed)
    if turn.crossed < Level.KILL:
        return ordered
    # Those that are being ended or were held already have the least to lose.
    return sorted(ordered, key=lambda t: not (turn.is_stopping(t) or isinstance(t.stage, Held)))


def _is_measured(turn: Turn, track: JobTrack) -> bool:
    return turn.charged(track) is not None or turn.is_unmeasurable(track)


def _measure(turn: Turn, chosen: Sequence[JobTrack], unmeasured: Sequence[JobTrack]) -> Turn:
    for track in unmeasured:
        is_free = isinstance(track.stage, Running) and not turn.is_paused_by_user(track)
        if is_free and not turn.is_stopping(track):
            turn = turn.freeze(track, Trigger.HOST)
        else:
            turn = turn.asking((track.rules.job_id,))
    return replace(turn, kept=turn.kept | {track.rules.job_id for track in chosen})


def _hold_jobs(turn: Turn) -> Turn:
    """Stop the growth: freeze the best victim, and keep it so if it still explains the decline."""
    blamed = blame_since_hold(turn)
    for track in list(turn.memory.jobs.values()):
        if isinstance(track.stage, Frozen) and _is_to_be_held(turn, track, blamed):
            turn = hold(turn, track, turn.verdict(track, Trigger.HOST, why_paused(track, blamed)))
    if _is_freezing(turn):
        return turn
    growing = [track for track in turn.memory.jobs.values() if _may_be_frozen(turn, track, blamed)]
    if not growing:
        return _rebased_after_hold(turn)
    wanted_bytes = turn.watermarks.of(Level.PAUSE) - turn.available_bytes
    if 0 < wanted_bytes <= credit_bytes(turn):
        return turn
    return turn.freeze(victim_order(growing, blamed)[0], Trigger.HOST)


def _rebased_after_hold(turn: Turn) -> Turn:
    """All that explain the decline are held: what is lost from now on is another's doing."""
    if not any(isinstance(act, Hold) for act in turn.acts):
        return turn
    return replace(turn, memory=replace(turn.memory, since_hold=baseline_of(turn)))


def _is_to_be_held(turn: Turn, track: JobTrack, blamed: Blame) -> bool:
    job_id = track.rules.job_id
    return job_id not in turn.kept and _is_measured(turn, track) and blamed.shares(job_id)


def _may_be_frozen(turn: Turn, track: JobTrack, blamed: Blame) -> bool:
    return (
        turn.fresh(track) is not None
        and turn.at_ns >= max(track.spared_until_ns, track.cleared_until_ns)
        and may_be_paused(turn, track, blamed)
    )


def _is_freezing(turn: Turn) -> bool:
    return any(isinstance(track.stage, Frozen) for track in turn.memory.jobs.values())


def _thaw_innocent(turn: Turn) -> Turn:
    for track in list(turn.memory.jobs.values()):
        if not isinstance(track.stage, Frozen):
            continue
        if not _is_measured(turn, track):
            turn = turn.asking((track.rules.job_id,))
        elif track.rules.job_id not in turn.kept:
            gap_ns = _cleared_for_ns(turn, track, track.stage)
            cleared = replace(track, cleared_until_ns=turn.at_ns + gap_ns)
            turn = turn.thaw(cleared)
    return turn


def _cleared_for_ns(turn: Turn, track: JobTrack, stage: Frozen) -> int:
    """Return how long a job that was stopped for nothing is not stopped again.

    One that grows was stopped a little early: how much it holds is known exactly now. One that
    does not was stopped for what others took, and is spared for long.
    """
    if stage.trigger is not Trigger.OWN_LIMIT or track.charged is None:
        return _CLEARED_NS
    cost_ns = track.charged.sample.cost_ns
    if track.upper.fastest_bytes_per_s(turn.at_ns) >= _GROWS_BYTES_PER_S:
        return 0
    return max(_CLEARED_NS, _CLEARED_COST_FACTOR * cost_ns)
