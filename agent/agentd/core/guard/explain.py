"""What people read: one line for each thing the guard does. Pure."""

from __future__ import annotations

from agentd.core.guard.model import CameBack, Level, Trigger, Verdict
from agentd.core.guard.units import (
    S_NS,
    duration_text,
    number_text,
    rate_text,
    share_text,
    size_text,
)

#: Slower than this a job does not grow as far as people care.
_GROWS_BYTES_PER_S = 1_000_000
#: Free swap counts for a quarter when people are told how long memory lasts: it is slow.
_SWAP_WORTH = 4


def reason(verdict: Verdict, done: str = "stopped") -> str:
    """Return why the guard acted: `stopped by the guard: 33.1 of 32 GiB, ...`.

    `done` is what was done: stopped, paused or killed.
    """
    return f"{done} by the guard: {grounds(verdict)}"


def grounds(verdict: Verdict) -> str:
    """Return the numbers that a verdict rests on."""
    if verdict.trigger is Trigger.OWN_LIMIT and verdict.limit_bytes is not None:
        return _own_limit(verdict)
    if verdict.trigger is Trigger.PAUSED_TOO_LONG:
        return f"paused for long and memory did not come back, {_host(verdict)}"
    return _host(verdict)


def over_limit_text(verdict: Verdict) -> str:
    """Return what the owner of a job is told that may go over its limit."""
    return f"over its limit: {grounds(verdict)}"


def would_text(done: str, verdict: Verdict) -> str:
    """Return what a dry run says: `would have stopped job 7: ...`."""
    return f"would have {done} job {verdict.job_id}: {grounds(verdict)}"


def came_back(act: CameBack) -> str:
    """Return what an act has given back to the host."""
    return (
        f"{size_text(act.freed_bytes)} came back within {duration_text(act.took_ns / S_NS)}, "
        f"host has {size_text(act.host_available_bytes)} available"
    )


def level_text(
    level: Level,
    available_bytes: int,
    total_bytes: int,
    mark_bytes: int,
    left_s: float | None,
    candidate: str,
) -> str:
    """Return what people are told when the host crosses a mark. `candidate`: who is next."""
    mark = f"below the {level.name.lower()} mark ({size_text(mark_bytes)})"
    parts = [f"host has {share_text(available_bytes, total_bytes)} available, {mark}"]
    if left_s is not None:
        parts.append(f"exhausted in {duration_text(left_s)} at this rate")
    if candidate:
        parts.append(candidate)
    return "; ".join(parts)


def not_ours_text(available_bytes: int, total_bytes: int, grown_bytes: int, loss_bytes: int) -> str:
    """Return what people are told when others use up the host's memory."""
    loss = f"{size_text(grown_bytes)} of the {size_text(max(0, loss_bytes))} lost"
    return (
        f"host has {share_text(available_bytes, total_bytes)} available, and no job of this agent "
        f"brought that about ({loss} since the decline began): none is stopped"
    )


def exhausted_after_s(
    available_bytes: int, swap_free_bytes: int, rate_bytes_per_s: int
) -> float | None:
    """Return when memory is used up at a rate of loss; None: never."""
    if rate_bytes_per_s <= 0:
        return None
    return (available_bytes + swap_free_bytes // _SWAP_WORTH) / rate_bytes_per_s


def _own_limit(verdict: Verdict) -> str:
    limit_bytes = 0 if verdict.limit_bytes is None else verdict.limit_bytes
    share = share_text(verdict.held_bytes, limit_bytes)
    return f"{share}{_growing(verdict)}, host had {size_text(verdict.host_available_bytes)} left"


def _host(verdict: Verdict) -> str:
    share = share_text(verdict.host_available_bytes, verdict.host_total_bytes)
    mark = number_text(verdict.mark_bytes, verdict.host_total_bytes)
    marked = f" (mark {mark})" if verdict.mark_bytes else ""
    return (
        f"host had {share} left{marked}, this job held {size_text(verdict.held_bytes)}"
        f"{_growing(verdict)}"
    )


def _growing(verdict: Verdict) -> str:
    if verdict.rate_bytes_per_s < _GROWS_BYTES_PER_S:
        return ""
    return f", growing {rate_text(verdict.rate_bytes_per_s)}"
