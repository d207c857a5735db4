"""When to look again, and at what. Pure.

The next look comes after half the time in which the nearest mark or limit could be reached:
headroom over the larger of what a machine can fill memory at and twice the fastest rate of the
last two seconds. A look at the host costs microseconds; one at a job's tree about ten of them
a process; its charge milliseconds. Each is asked for as rarely as its price demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.core.guard.limits import judged_limit_bytes
from agentd.core.guard.model import Level, MemAction, NextLook, Peek
from agentd.core.guard.own_limit import ENDING_GROWTH_BYTES
from agentd.core.guard.state import Charged, Ending, Frozen, Held, JobTrack, Running
from agentd.core.guard.turn import Turn, upper_now
from agentd.core.guard.units import GIB, MIB, MS_NS, S_NS
from agentd.core.guard.wake import is_awake

SHORTEST_NS = 2 * MS_NS
LONGEST_NS = S_NS
#: What a machine may fill its memory at although nothing shows it yet: a few threads touching
#: fresh pages reach about this. Looking at the host for it costs one pread of 6 us.
HOST_FLOOR_BYTES_PER_S = 4 * GIB
#: The same for a job. A look at its tree costs a hundred times as much and a charge a thousand,
#: so they are planned for less: a faster rise shows in the host's available memory, which is
#: looked at in between as often as a rise at the highest of the three demands.
_TREE_FLOOR_BYTES_PER_S = 2 * GIB
_CHARGE_FLOOR_BYTES_PER_S = GIB
_PEEK_FLOOR_BYTES_PER_S = 8 * GIB
#: Half of the time in which a mark could be reached.
_SAFETY = 0.5
#: A job is quiet that grows by less than this; it is not looked at more often than that.
_QUIET_BYTES_PER_S = 256 * MIB
QUIET_NS = 20 * MS_NS
#: The share of time that charges of one job, and surveys of all, may take: a tenth, a quarter.
_CHARGE_COST_FACTOR = 10
_SURVEY_COST_FACTOR = 4
#: How often all jobs are looked at on a calm host.
SURVEY_NS = 10 * S_NS
#: With less time than this until the pause mark, all jobs are looked at each time.
_SHORT_S = 5.0
#: And with less than that many warn marks available.
_NEAR_WARN = 1.5
#: Nothing is ended at the warn mark: no hurry there.
_WARN_NS = 100 * MS_NS
#: Below the last mark there is nothing left to cross; what was begun is followed.
_BELOW_ALL_NS = 20 * MS_NS
_FOLLOW_NS = 10 * MS_NS
#: Charges that do not come are asked for at leisure.
_HOPELESS_NS = S_NS
#: Due times this close together are one look.
_TOGETHER = 1.25
#: Whoever is due less often than this may be looked at earlier by a part of that, with others:
#: a hundred jobs that began one after the other are soon looked at all at once.
_EASY_NS = 100 * MS_NS
_EARLIER_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class _Due:
    """When a job is to be looked at, and whether its charge is wanted."""

    job_id: int
    at_ns: int
    wants_charge: bool = False
    #: It may be looked at so much earlier, together with others.
    slack_ns: int = 0
    #: What shows in between that it has to be sooner.
    peek: Peek | None = None


def next_look(turn: Turn) -> NextLook:
    """Return when to look again, and at what."""
    now_ns = turn.at_ns
    dues = [due for track in turn.memory.jobs.values() if (due := _job_due(turn, track))]
    survey_ns = _survey_due(turn)
    soonest_ns = min([host_delay_ns(turn) + now_ns, survey_ns, *(due.at_ns for due in dues)])
    after_ns = min(LONGEST_NS, max(SHORTEST_NS, soonest_ns - now_ns))
    until_ns = now_ns + int(after_ns * _TOGETHER)
    wanted = [d for d in dues if d.at_ns <= max(until_ns, now_ns + after_ns + d.slack_ns)]
    charges = turn.charges | {due.job_id for due in wanted if due.wants_charge}
    jobs = charges | {due.job_id for due in wanted}
    is_blind = _is_blind(turn)
    if survey_ns <= until_ns or is_blind:
        jobs |= turn.memory.jobs.keys()
    if turn.charges or is_blind:
        after_ns = 0
    peek = _peek([due.peek for due in dues if due.peek], after_ns)
    return NextLook(after_ns, frozenset(jobs), frozenset(charges), peek)


def _peek(peeks: Sequence[Peek], after_ns: int) -> Peek | None:
    """Return what does for all of them before the next look, if there is time for any."""
    every_ns = min((peek.every_ns for peek in peeks), default=after_ns)
    if every_ns >= after_ns:
        return None
    return Peek(every_ns, max(peek.below_bytes for peek in peeks))


def calm_look(turn: Turn) -> NextLook:
    """Return the next look of a guard that is switched off: for reports alone."""
    is_due = _is_survey_due(turn)
    return NextLook(LONGEST_NS, frozenset(turn.memory.jobs) if is_due else frozenset())


def host_delay_ns(turn: Turn) -> int:
    """Return when the next mark of the host could be reached."""
    if not turn.memory.jobs and not turn.memory.awaited:
        return LONGEST_NS
    lines, available_bytes = turn.watermarks, turn.available_bytes
    rate = max(HOST_FLOOR_BYTES_PER_S, 2 * turn.memory.loss.fastest_bytes_per_s(turn.at_ns))
    delays = [LONGEST_NS]
    for level in (Level.WARN, Level.PAUSE, Level.TERM, Level.KILL):
        headroom_bytes = available_bytes - lines.of(level)
        if headroom_bytes < 0:
            continue
        delay_ns = _delay_ns(headroom_bytes, rate)
        delays.append(max(delay_ns, _WARN_NS) if level == Level.WARN else delay_ns)
    if available_bytes < lines.kill_bytes:
        delays.append(_BELOW_ALL_NS)
    if turn.memory.awaited or any(
        isinstance(track.stage, Ending) for track in turn.memory.jobs.values()
    ):
        delays.append(_FOLLOW_NS)
    return max(SHORTEST_NS, min(delays))


def _delay_ns(headroom_bytes: int, rate_bytes_per_s: int) -> int:
    return int(headroom_bytes * S_NS / rate_bytes_per_s * _SAFETY)


# Surveys: all jobs at once.


def _is_near(turn: Turn) -> bool:
    """Whether who is to blame may be asked at any look."""
    lines, available_bytes = turn.watermarks, turn.available_bytes
    if available_bytes < lines.warn_bytes * _NEAR_WARN:
        return True
    rate = turn.memory.loss.fastest_bytes_per_s(turn.at_ns)
    return available_bytes - lines.pause_bytes < rate * _SHORT_S


def _survey_due(turn: Turn) -> int:
    memory = turn.memory
    if not memory.jobs:
        return turn.at_ns + LONGEST_NS
    if memory.surveyed_ns is None:
        # Asked at the last look already and not answered: some job cannot be looked at now.
        was_asked = memory.jobs.keys() <= memory.planned.jobs
        return turn.at_ns + (QUIET_NS if was_asked else 0)
    if not _is_near(turn):
        return memory.surveyed_ns + SURVEY_NS
    gap_ns = _SURVEY_COST_FACTOR * memory.survey_cost_ns
    return max(memory.surveyed_ns + gap_ns, turn.at_ns + host_delay_ns(turn))


def _is_survey_due(turn: Turn) -> bool:
    surveyed_ns = turn.memory.surveyed_ns
    return surveyed_ns is None or turn.at_ns + LONGEST_NS - surveyed_ns >= SURVEY_NS


def _is_blind(turn: Turn) -> bool:
    """Whether a mark was crossed and some job has not been seen since: look at once, but once."""
    if turn.crossed < Level.PAUSE or turn.memory.planned.after_ns == 0:
        return False
    return any(
        turn.fresh(track) is None
        for track in turn.memory.jobs.values()
        if isinstance(track.stage, Running)
    )


# One job.


def _job_due(turn: Turn, track: JobTrack) -> _Due | None:
    job_id = track.rules.job_id
    match track.stage:
        case Frozen():
            return _Due(job_id, turn.at_ns, wants_charge=True)
        case Ending(killed_ns=None):
            return _ending_due(turn, track, track.stage)
        case Running() if not turn.is_paused_by_user(track):
            return _running_due(turn, track)
        case Running() | Held():
            return _stopped_due(turn, track)
        case _:
            # Killed: it is on its way out.
            return None


def _stopped_due(turn: Turn, track: JobTrack) -> _Due:
    """Stopped it cannot grow; but anybody may have continued it, and tells nobody."""
    job_id, sample = track.rules.job_id, track.sample
    if job_id in turn.memory.planned.jobs:
        return _Due(job_id, turn.at_ns + LONGEST_NS)
    if track.stopped is None or sample is None:
        # What it is then is what it is compared with.
        return _Due(job_id, turn.at_ns)
    return _Due(job_id, max(turn.at_ns, sample.at_ns + LONGEST_NS))


def _ending_due(turn: Turn, track: JobTrack, stage: Ending) -> _Due:
    sample = track.sample
    if sample is None:
        return _Due(track.rules.job_id, turn.at_ns)
    before_bytes = sample.upper_bytes if stage.upper_bytes is None else stage.upper_bytes
    headroom_bytes = before_bytes + ENDING_GROWTH_BYTES - sample.upper_bytes
    return _Due(track.rules.job_id, _look_at_ns(turn, track, max(0, headroom_bytes)))


def _running_due(turn: Turn, track: JobTrack) -> _Due | None:
    limit_bytes = judged_limit_bytes(track)
    if limit_bytes is None:
        return _stopped_due(turn, track) if is_awake(track) else None
    job_id, sample = track.rules.job_id, track.sample
    if sample is None:
        was_asked = job_id in turn.memory.planned.jobs
        return _Due(job_id, turn.at_ns + (QUIET_NS if was_asked else 0))
    if upper_now(track) <= limit_bytes:
        return _tree_due(turn, track, limit_bytes - sample.upper_bytes)
    return _charge_due(turn, track, limit_bytes)


def _tree_due(turn: Turn, track: JobTrack, headroom_bytes: int) -> _Due:
    """Below its limit: when its resident sets could have come above it."""
    job_id, from_bytes = track.rules.job_id, track.seen_available_bytes
    if _has_fallen(turn, from_bytes, headroom_bytes):
        return _Due(job_id, turn.at_ns)
    due_ns = _look_at_ns(turn, track, headroom_bytes)
    last_ns = turn.at_ns if track.sample is None else track.sample.at_ns
    slack_ns = int((due_ns - last_ns) * _EARLIER_SHARE) if due_ns - last_ns > _EASY_NS else 0
    peek = _peek_for(from_bytes, headroom_bytes)
    return _Due(job_id, due_ns, slack_ns=slack_ns, peek=peek)


def _has_fallen(turn: Turn, from_bytes: int, headroom_bytes: int) -> bool:
    """Whether the host lost so much since then that a job may have used up half its headroom."""
    return turn.available_bytes < from_bytes - _spent_bytes(headroom_bytes)


def _spent_bytes(headroom_bytes: int) -> int:
    return max(MIB, int(headroom_bytes * _SAFETY))


def _peek_for(from_bytes: int, headroom_bytes: int) -> Peek:
    """Return what shows that the host lost that much: sooner than any look at a tree is due."""
    every_ns = max(QUIET_NS, _delay_ns(headroom_bytes, _PEEK_FLOOR_BYTES_PER_S))
    return Peek(every_ns, from_bytes - _spent_bytes(headroom_bytes))


def _look_at_ns(turn: Turn, track: JobTrack, headroom_bytes: int) -> int:
    fastest = track.upper.fastest_bytes_per_s(turn.at_ns)
    delay_ns = _delay_ns(headroom_bytes, max(_TREE_FLOOR_BYTES_PER_S, 2 * fastest))
    shortest_ns = QUIET_NS if fastest < _QUIET_BYTES_PER_S else SHORTEST_NS
    delay_ns = min(LONGEST_NS, max(shortest_ns, delay_ns, 2 * track.look_cost_ns))
    last_ns = turn.at_ns if track.sample is None else track.sample.at_ns
    return max(turn.at_ns, last_ns + delay_ns)


def _charge_due(turn: Turn, track: JobTrack, limit_bytes: int) -> _Due:
    """Above its limit by resident sets: when its charge could have come above it as well."""
    job_id, charged, now_ns = track.rules.job_id, track.charged, turn.at_ns
    if track.sample is not None and track.sample.is_measuring:
        grows = track.upper.fastest_bytes_per_s(now_ns) >= _QUIET_BYTES_PER_S
        return _Due(job_id, now_ns + (SHORTEST_NS if grows else QUIET_NS), wants_charge=True)
    if turn.is_unmeasurable(track):
        last_ns = now_ns if track.sample is None else track.sample.at_ns
        return _Due(job_id, last_ns + _HOPELESS_NS, wants_charge=True)
    if charged is None:
        return _Due(job_id, now_ns, wants_charge=True)
    dearest_ns = _CHARGE_COST_FACTOR * charged.sample.cost_ns
    last_ns = charged.sample.at_ns
    headroom_bytes = limit_bytes - charged.held_bytes
    if headroom_bytes < 0:
        # It stays above: it may, or somebody else is ending it.
        is_judged = track.rules.action is MemAction.KILL and not turn.policy.dry_run
        gap_ns = max(QUIET_NS if is_judged else LONGEST_NS, dearest_ns)
        return _Due(job_id, last_ns + gap_ns, wants_charge=True)
    fastest = track.held.fastest_bytes_per_s(now_ns)
    rate = max(_CHARGE_FLOOR_BYTES_PER_S, 2 * fastest)
    delay_ns = min(LONGEST_NS, _delay_ns(headroom_bytes, rate))
    if _has_fallen(turn, charged.host_available_bytes, headroom_bytes):
        delay_ns = 0
    shortest_ns = QUIET_NS if fastest < _QUIET_BYTES_PER_S else SHORTEST_NS
    due_ns = last_ns + max(shortest_ns, dearest_ns, delay_ns)
    look_ns = _look_at_ns(turn, track, _unspent_bytes(turn, charged, headroom_bytes))
    if look_ns < due_ns:
        return _Due(job_id, look_ns)
    peek = _peek_for(charged.host_available_bytes, headroom_bytes)
    return _Due(job_id, due_ns, wants_charge=True, peek=peek)


def _unspent_bytes(turn: Turn, charged: Charged, headroom_bytes: int) -> int:
    """Return how much of its headroom a job cannot have used up: the host has not lost it."""
    lost_bytes = charged.host_available_bytes - turn.available_bytes
    return max(0, headroom_bytes - max(0, lost_bytes))
