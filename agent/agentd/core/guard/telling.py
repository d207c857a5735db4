"""What people are told of the host: it runs low, and whose doing it is not. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.blame import blame
from agentd.core.guard.comeback import CAME_BACK_WAIT_NS
from agentd.core.guard.explain import exhausted_after_s, level_text, not_ours_text
from agentd.core.guard.model import Level, Tell
from agentd.core.guard.observe import is_surveyed
from agentd.core.guard.turn import Turn
from agentd.core.guard.whom import candidates_text


def tell_level(turn: Turn) -> Turn:
    """Return the turn with people told, once, that the host has crossed a mark."""
    level = turn.memory.level
    if turn.crossed == Level.FINE or turn.memory.told:
        return turn
    host = turn.look.host
    text = level_text(
        level,
        host.available_bytes,
        host.total_bytes,
        turn.watermarks.of(level),
        exhausted_after_s(
            host.available_bytes, host.swap_free_bytes, turn.memory.loss.rate_bytes_per_s()
        ),
        candidates_text(turn, blame(turn)),
    )
    memory = replace(turn.memory, told=frozenset((level,)))
    return replace(turn, memory=memory).saying(Tell(text))


def tell_not_ours(turn: Turn) -> Turn:
    """Return the turn with people told, once for each level, that others use the memory up."""
    blamed = blame(turn)
    level = turn.memory.level
    if blamed.is_ours or blamed.loss_bytes <= 0 or level in turn.memory.told_not_ours:
        return turn
    if not is_surveyed(turn.memory, turn.look) or _is_job_going(turn):
        return turn
    host = turn.look.host
    text = not_ours_text(
        host.available_bytes,
        host.total_bytes,
        sum(blamed.grown_bytes.values()),
        blamed.loss_bytes,
    )
    memory = replace(turn.memory, told_not_ours=turn.memory.told_not_ours | {level})
    return replace(turn, memory=memory).saying(Tell(text))


def _is_job_going(turn: Turn) -> bool:
    """Whether a job ends or is just gone, or was ended in this episode.

    What it had grown by is not known any more, or comes back anyway.
    """
    memory = turn.memory
    if memory.ended_ns is not None or memory.awaited:
        return True
    if memory.gone_ns is not None and turn.at_ns - memory.gone_ns < CAME_BACK_WAIT_NS:
        return True
    return any(turn.is_stopping(track) for track in memory.jobs.values())
