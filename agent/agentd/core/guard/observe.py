"""What a look adds to what the guard remembers. Pure: no judgement here."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.comeback import CAME_BACK_WAIT_NS, came_back, with_gone
from agentd.core.guard.limits import judged_limit_bytes
from agentd.core.guard.model import (
    Charge,
    GuardPolicy,
    HostSample,
    JobSample,
    Level,
    Look,
    Rules,
    Tell,
    Thaw,
    Trigger,
)
from agentd.core.guard.rates import Gauge
from agentd.core.guard.state import (
    Baseline,
    Charged,
    Ending,
    Frozen,
    Held,
    JobTrack,
    Memory,
    Proof,
    Running,
    Size,
)
from agentd.core.guard.turn import FRESH_NS, Turn
from agentd.core.guard.units import MIB, MS_NS, S_NS
from agentd.core.guard.wake import is_awake, watch_stopped
from agentd.core.guard.watermarks import Watermarks, watermarks

#: A gap this many times the planned one is no rate: the machine was paused, or the guard starved.
_GAP_FACTOR = 5
_GAP_AT_LEAST_NS = 100 * MS_NS
#: How long a job that its user has resumed is not held again.
_SPARED_NS = 30 * S_NS
#: A decline is over when so little was lost in this time: a part of the warn mark, or this.
_PLATEAU_NS = 60 * S_NS
_PLATEAU_NOISE_BYTES = 16 * MIB
_PLATEAU_NOISE_PART = 64
#: The look that is about to come, and the one that would see what it missed.
_LOOKS_AHEAD = 2
#: A host with less than this left until its pause mark is not calm.
_CALM_S = 10.0


def observe(policy: GuardPolicy, memory: Memory, look: Look) -> Turn:
    """Return the first turn of a look: remembered, and what has ended or was undone by others."""
    lines = watermarks(policy.marks, look.host.total_bytes)
    is_rebased = _is_gap(memory, look)
    loss = Gauge() if is_rebased else memory.loss
    memory = replace(
        memory,
        host=look.host,
        loss=loss.seen(look.host.at_ns, -look.host.available_bytes),
        level=lines.level(memory.level, look.host),
        looked_ns=look.at_ns,
    )
    jobs = {
        job_id: _seen_job(memory, look, memory.jobs.get(job_id) or _new(look, rules), is_rebased)
        for job_id, rules in look.rules.items()
    }
    gone = [track for job_id, track in memory.jobs.items() if job_id not in jobs]
    memory = _surveyed(with_gone(replace(memory, jobs=jobs), look, gone), look)
    turn = Turn(policy, look, lines, memory, _crossed(memory, look, lines), is_rebased)
    turn = _with_baseline(_with_episode(turn))
    return came_back(_undone_by_others(turn))


def _crossed(memory: Memory, look: Look, lines: Watermarks) -> Level:
    """Return the mark that is crossed, or will be before the jobs could be looked at once more.

    Many processes on a slow machine take a tenth of a second to be looked at: to wait for what
    they do meanwhile is to come too late.
    """
    crossed = lines.crossed(look.host)
    if crossed != Level.WARN:
        return crossed
    stages = (track.stage for track in memory.jobs.values())
    if any(isinstance(stage, Frozen) and stage.trigger is Trigger.HOST for stage in stages):
        # For that very reason: nothing is lost any more just because it is stopped.
        return Level.PAUSE
    headroom_bytes = look.host.available_bytes - lines.pause_bytes
    lost_bytes = memory.loss.rate_bytes_per_s() * memory.survey_cost_ns // S_NS
    return Level.PAUSE if lost_bytes * _LOOKS_AHEAD > headroom_bytes else crossed


def has_just_crossed(memory: Memory, policy: GuardPolicy, host: HostSample) -> bool:
    """Whether a mark is crossed at which something is done, and was not at the last look."""
    lines = watermarks(policy.marks, host.total_bytes)
    before = Level.FINE if memory.host is None else lines.crossed(memory.host)
    return lines.crossed(host) >= Level.PAUSE and lines.crossed(host) > before


def is_surveyed(memory: Memory, look: Look) -> bool:
    """Whether every job has a sample of now."""
    return all(
        track.sample is not None and look.at_ns - track.sample.at_ns <= FRESH_NS
        for track in memory.jobs.values()
    )


def _new(look: Look, rules: Rules) -> JobTrack:
    return JobTrack(rules, proof=Proof(0, look.host.available_bytes))


def _is_gap(memory: Memory, look: Look) -> bool:
    if memory.looked_ns is None:
        return False
    planned_ns = max(_GAP_FACTOR * memory.planned.after_ns, _GAP_AT_LEAST_NS)
    return look.at_ns - memory.looked_ns > planned_ns


def _seen_job(memory: Memory, look: Look, track: JobTrack, is_rebased: bool) -> JobTrack:  # noqa: FBT001  # private, one caller
    job_id = track.rules.job_id
    if track.rules is not look.rules[job_id]:
        track = replace(track, rules=look.rules[job_id])
    if is_rebased:
        track = replace(track, upper=Gauge(), held=Gauge())
    if isinstance(track.stage, Ending) and look.host.available_bytes < track.stage.low_bytes:
        track = replace(track, stage=replace(track.stage, low_bytes=look.host.available_bytes))
    sample = look.jobs.get(job_id)
    if sample is None or (track.sample is not None and sample.at_ns < track.sample.at_ns):
        return watch_stopped(look, track, None)
    return watch_stopped(look, _with_sample(memory, look, track, sample), sample)


def _with_sample(memory: Memory, look: Look, track: JobTrack, sample: JobSample) -> JobTrack:
    track = replace(
        track,
        sample=sample,
        seen_available_bytes=look.host.available_bytes,
        upper=track.upper.seen(sample.at_ns, sample.upper_bytes),
    )
    if sample.charge is not None:
        return _with_charge(look, track, sample, sample.charge)
    was_asked = track.rules.job_id in memory.planned.charges and not sample.is_measuring
    reading_bytes = track.reading_available_bytes
    if sample.is_measuring and reading_bytes is None:
        reading_bytes = look.host.available_bytes
    return replace(
        track,
        look_cost_ns=sample.cost_ns,
        unanswered=track.unanswered + 1 if was_asked else track.unanswered,
        reading_available_bytes=reading_bytes,
    )


def _with_charge(look: Look, track: JobTrack, sample: JobSample, charge: Charge) -> JobTrack:
    # What the host had when the reading began: what the job took meanwhile may not be in it.
    then_bytes = track.reading_available_bytes
    available_bytes = look.host.available_bytes if then_bytes is None else then_bytes
    held_bytes = min(charge.held_bytes, sample.upper_bytes)
    limit_bytes = judged_limit_bytes(track)
    is_innocent = limit_bytes is not None and held_bytes <= limit_bytes
    return replace(
        track,
        charged=Charged(sample, held_bytes, charge.freeable_bytes, available_bytes),
        held=track.held.seen(sample.at_ns, held_bytes),
        unanswered=0,
        reading_available_bytes=None,
        proof=Proof(held_bytes, available_bytes) if is_innocent else track.proof,
    )


def _surveyed(memory: Memory, look: Look) -> Memory:
    if not memory.jobs.keys() <= look.jobs.keys():
        return memory
    cost_ns = sum(sample.cost_ns for sample in look.jobs.values())
    return replace(memory, surveyed_ns=look.at_ns, survey_cost_ns=cost_ns)


def _with_episode(turn: Turn) -> Turn:
    memory = turn.memory
    if memory.level == Level.FINE and (memory.told or memory.told_not_ours):
        memory = replace(memory, told=frozenset(), told_not_ours=frozenset())
    if memory.level == Level.FINE and _is_over(turn, memory.ended_ns):
        memory = replace(memory, ended_ns=None)
    return replace(turn, memory=memory)


def _is_over(turn: Turn, ended_ns: int | None) -> bool:
    """Whether nothing of what the guard ended is on its way back any more."""
    is_ending = any(isinstance(track.stage, Ending) for track in turn.memory.jobs.values())
    is_recent = ended_ns is not None and turn.at_ns - ended_ns < CAME_BACK_WAIT_NS
    return not (is_ending or is_recent or turn.memory.awaited)


def _with_baseline(turn: Turn) -> Turn:
    memory = turn.memory
    if not is_surveyed(memory, turn.look):
        return _with_most(turn)
    # A guard that has just begun on a well host judges by what is lost from now on.
    is_first = memory.baseline is None and memory.level == Level.FINE
    if is_first or _is_calm(turn):
        calm = baseline_of(turn)
        memory = replace(memory, baseline=calm, plateau=calm, since_hold=None)
    elif not _is_plateau(turn):
        memory = replace(memory, plateau=baseline_of(turn))
    elif memory.plateau is not None and turn.at_ns - memory.plateau.at_ns >= _PLATEAU_NS:
        # That decline is over, at a lower level: the next one may be another's doing.
        memory = replace(memory, baseline=baseline_of(turn), plateau=None, since_hold=None)
    return _with_most(_with_since_hold(replace(turn, memory=memory)))


def _with_since_hold(turn: Turn) -> Turn:
    """Let what a hold has excused be lost anew: memory is back, or nobody is held any more."""
    since = turn.memory.since_hold
    if since is None:
        return turn
    if not any(isinstance(track.stage, Held | Ending) for track in turn.memory.jobs.values()):
        return replace(turn, memory=replace(turn.memory, since_hold=None))
    if turn.available_bytes <= since.available_bytes:
        return turn
    return replace(turn, memory=replace(turn.memory, since_hold=baseline_of(turn)))


def _with_most(turn: Turn) -> Turn:
    if turn.memory.baseline is not None:
        return turn
    most_bytes = max(turn.memory.most_available_bytes, turn.available_bytes)
    return replace(turn, memory=replace(turn.memory, most_available_bytes=most_bytes))


def _is_plateau(turn: Turn) -> bool:
    """Whether nothing was lost since the plateau began, and nothing is being done about a loss."""
    plateau = turn.memory.plateau
    if plateau is None or turn.memory.level > Level.WARN or turn.memory.awaited:
        return False
    if not all(isinstance(track.stage, Running) for track in turn.memory.jobs.values()):
        return False
    noise_bytes = max(_PLATEAU_NOISE_BYTES, turn.watermarks.warn_bytes // _PLATEAU_NOISE_PART)
    return turn.available_bytes >= plateau.available_bytes - noise_bytes


def baseline_of(turn: Turn) -> Baseline:
    """Return host and jobs as they are now."""
    sizes = {
        job_id: Size(track.sample.upper_bytes)
        for job_id, track in turn.memory.jobs.items()
        if track.sample is not None
    }
    return Baseline(turn.at_ns, turn.available_bytes, sizes)


def _is_calm(turn: Turn) -> bool:
    if turn.memory.level != Level.FINE:
        return False
    fastest = turn.memory.loss.fastest_bytes_per_s(turn.at_ns)
    headroom_bytes = turn.available_bytes - turn.watermarks.pause_bytes
    # One point is no row: how fast it falls is not known yet.
    knows_rate = len(turn.memory.loss.points) > 1
    return knows_rate and headroom_bytes > fastest * _CALM_S


def _undone_by_others(turn: Turn) -> Turn:
    for job_id, track in turn.memory.jobs.items():
        match track.stage:
            case Frozen() | Held() if turn.is_paused_by_user(track):
                # The user's pause takes the guard's place: only the user ends it now.
                turn = turn.with_job(_pardoned(turn, track))
            case Frozen() if job_id in turn.look.stopping:
                # A SIGSTOP of ours may have come after the ladder's SIGCONT.
                turn = turn.saying(Thaw(job_id)).with_job(replace(track, stage=Running()))
            case Held() if job_id in turn.look.stopping:
                turn = turn.with_job(replace(track, stage=Running()))
            case Held() if job_id in turn.look.resumed:
                turn = turn.with_job(_pardoned(turn, track)).saying(
                    Tell("resumed by its user while the guard held it", job_id)
                )
            case Held() if is_awake(track):
                turn = turn.with_job(_pardoned(turn, track)).saying(
                    Tell("runs again although the guard held it", job_id)
                )
            case _:
                pass
    return turn


def _pardoned(turn: Turn, track: JobTrack) -> JobTrack:
    stage = track.stage
    running = replace(track, stage=Running(), acted_ns=turn.at_ns)
    if not isinstance(stage, Held):
        return running
    if stage.verdict.trigger is Trigger.OWN_LIMIT:
        return replace(running, pardoned_bytes=stage.verdict.held_bytes)
    return replace(running, spared_until_ns=turn.at_ns + _SPARED_NS)
