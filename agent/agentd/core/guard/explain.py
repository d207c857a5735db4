"""What people read: one line for each thing the guard does. Pure."""

from __future__ import annotations

from agentd.core.guard.model import CameBack, Level, Trigger, Verdict
from agentd.core.guard.units import (
    S_NS,
    duration_text,
    rate_text,
    share_and_mark_texts,
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
        return f"paused for long and memory did not come back, {_waited(verdict)}{_held(verdict)}"
    return f"{_marked(verdict)}{_held(verdict)}{_why(verdict)}"


def over_limit_text(verdict: Verdict) -> str:
    """Return what the owner of a job is told that may go over its limit."""
    return f"over its limit: {grounds(verdict)}"


def would_text(done: str, verdict: Verdict) -> str:
    """Return what a dry run says of a job: `would have been stopped: ...`."""
    return f"would have been {done}: {grounds(verdict)}"


def came_back(act: CameBack) -> str:
    """Return what the host had before and after: only that is known for certain."""
    return (
        f"the host had {size_text(act.host_before_bytes)} available, "
        f"{size_text(act.host_available_bytes)} after {duration_text(act.took_ns / S_NS)}"
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


def _marked(verdict: Verdict) -> str:
    if not verdict.mark_bytes:
        return f"host had {share_text(verdict.host_available_bytes, verdict.host_total_bytes)} left"
    share, mark = _share_and(verdict)
    return f"host had {share} left ({verdict.level.name.lower()} mark {mark})"


def _waited(verdict: Verdict) -> str:
    share, mark = _share_and(verdict)
    return f"host had {share} left and {mark} were waited for"


def _share_and(verdict: Verdict) -> tuple[str, str]:
    return share_and_mark_texts(
        verdict.host_available_bytes, verdict.host_total_bytes, verdict.mark_bytes
    )


def _held(verdict: Verdict) -> str:
    return f", this job held {size_text(verdict.held_bytes)}{_growing(verdict)}"


def _why(verdict: Verdict) -> str:
    return f", {verdict.why}" if verdict.why else ""


def _growing(verdict: Verdict) -> str:
    if verdict.rate_bytes_per_s < _GROWS_BYTES_PER_S:
        return ""
    return f", growing {rate_text(verdict.rate_bytes_per_s)}"
