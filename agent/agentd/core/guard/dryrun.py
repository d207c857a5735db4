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
_DONE: dict[type[Act], str] = {Hold: "paused", Terminate: "stopped", Kill: "killed"}


def as_told(before: Turn, judged: Turn) -> Turn:
    """Return the turn before the judgement with one line about it, at most one a second.

    What is remembered is what it was before: nothing that the judgement wanted has happened.
    A line about the host comes first, which is told once; then the job of which nothing was
    said for longest.
    """
    spoke_ns = before.memory.spoke_ns
    acts = judged.acts[len(before.acts) :]
    if not acts or (spoke_ns is not None and before.at_ns - spoke_ns < _GAP_NS):
        return before
    tells = [tell for act in acts if (tell := _told(judged, act)) is not None]
    if not tells:
        return before
    turn = _with_said(before, judged, min(tells, key=lambda tell: _order(before, tell)))
    return replace(turn, memory=replace(turn.memory, spoke_ns=turn.at_ns))


def _order(turn: Turn, tell: Tell) -> tuple[bool, int]:
    if tell.job_id is None:
        return (False, 0)
    return (True, turn.memory.jobs[tell.job_id].spoke_ns)


def _with_said(before: Turn, judged: Turn, tell: Tell) -> Turn:
    """Return the turn with a line said, and that it was."""
    turn = before.saying(tell)
    if tell.job_id is not None:
        told = judged.memory.jobs[tell.job_id].told
        track = before.memory.jobs[tell.job_id]
        return turn.with_job(replace(track, told=told, spoke_ns=turn.at_ns))
    # Of the mark first, and at the next chance of whose doing it is not.
    was, now = before.memory, judged.memory
    if now.told != was.told:
        return replace(turn, memory=replace(was, told=now.told))
    return replace(turn, memory=replace(was, told_not_ours=now.told_not_ours))


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
        case Hold() | Terminate() | Kill():
            return _would(_DONE[type(act)], act.verdict)
        case Tell():
            # A line about the host or a limit that may be passed is no pretence: it stays told.
            return act
        case _:
            return None


def _would(done: str, verdict: Verdict) -> Tell:
    return Tell(would_text(done, verdict), verdict.job_id, verdict)
