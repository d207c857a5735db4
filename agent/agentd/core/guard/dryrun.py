"""A dry run: the same judgement, told instead of done. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.explain import would_text
from agentd.core.guard.model import (
    Act,
    Freeze,
    Hold,
    Kill,
    MemAction,
    Tell,
    Terminate,
    Trigger,
    Verdict,
)
from agentd.core.guard.state import Frozen
from agentd.core.guard.turn import Turn
from agentd.core.guard.units import S_NS

#: One line in this time, whatever goes on.
_GAP_NS = S_NS


def as_told(before: Turn, judged: Turn) -> Turn:
    """Return the turn before the judgement with one line about it, at most one a second.

    What is remembered is what it was before: nothing that the judgement wanted has happened.
    """
    spoke_ns = before.memory.spoke_ns
    acts = judged.acts[len(before.acts) :]
    if not acts or (spoke_ns is not None and before.at_ns - spoke_ns < _GAP_NS):
        return before
    would = next((tell for act in acts if (tell := _told(judged, act))), None)
    if would is not None:
        turn = before.saying(would)
    else:
        tells = [act for act in acts if isinstance(act, Tell)]
        if not tells:
            return before
        # A line about the host or a limit that may be passed is no pretence: it stays told.
        turn = replace(before, memory=judged.memory).saying(tells[0])
    return replace(turn, memory=replace(turn.memory, spoke_ns=turn.at_ns))


def _told(judged: Turn, act: Act) -> Tell | None:
    match act:
        case Freeze(job_id=job_id):
            track = judged.memory.jobs[job_id]
            if not isinstance(track.stage, Frozen):
                return None
            verdict = judged.verdict(track, track.stage.trigger)
            is_ended = (
                track.stage.trigger is Trigger.OWN_LIMIT and track.rules.action is MemAction.KILL
            )
            return _would("stopped" if is_ended else "paused", verdict)
        case Hold(verdict=verdict):
            return _would("paused", verdict)
        case Terminate(verdict=verdict):
            return _would("stopped", verdict)
        case Kill(verdict=verdict):
            return _would("killed", verdict)
        case _:
            return None


def _would(done: str, verdict: Verdict) -> Tell:
    return Tell(would_text(done, verdict), verdict.job_id, verdict)
