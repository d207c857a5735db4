"""Who would be paused first, who would be ended first, and why: in words. Pure."""

from __future__ import annotations

from agentd.core.guard.blame import Blame
from agentd.core.guard.choose import overuse_bytes, victim_order
from agentd.core.guard.state import JobTrack, Running
from agentd.core.guard.turn import Turn, holding, upper_now
from agentd.core.guard.units import size_text


def may_be_paused(turn: Turn, track: JobTrack, blamed: Blame) -> bool:
    """Whether stopping it could stop a growth that it has brought about."""
    return (
        isinstance(track.stage, Running)
        and not turn.is_paused_by_user(track)
        and not turn.is_stopping(track)
        and _grows(turn, track)
        and blamed.shares(track.rules.job_id)
    )


def _grows(turn: Turn, track: JobTrack) -> bool:
    """Whether stopping it could stop any growth. Copy-on-write shows in no resident set."""
    is_sharing = holding(track) < upper_now(track)
    return is_sharing or track.upper.fastest_bytes_per_s(turn.at_ns) > 0


def first_to_pause(turn: Turn, blamed: Blame) -> int | None:
    """Return the job that would be paused first, if any would."""
    growing = [t for t in turn.memory.jobs.values() if may_be_paused(turn, t, blamed)]
    return victim_order(growing, blamed)[0].rules.job_id if growing else None


def first_to_end(turn: Turn, blamed: Blame) -> int | None:
    """Return the job that would be ended first, if there is one."""
    tracks = [t for t in turn.memory.jobs.values() if not turn.is_stopping(t)]
    return victim_order(tracks, blamed)[0].rules.job_id if tracks else None


def candidates_text(turn: Turn, blamed: Blame) -> str:
    """Return who would be first in words; empty: there is nobody."""
    paused, ended = first_to_pause(turn, blamed), first_to_end(turn, blamed)
    if ended is None:
        return ""
    if paused is None or paused == ended:
        done = "ended" if paused is None else "paused or ended"
        return f"job {ended} would be the first to be {done}"
    return f"job {paused} would be the first to be paused, job {ended} the first to be ended"


def merits(turn: Turn, track: JobTrack, blamed: Blame) -> list[str]:
    """Return in words what puts a job before others, as `victim_order` goes."""
    words = []
    if over_bytes := overuse_bytes(track):
        # Resident sets alone prove nothing: what several processes share counts for each.
        word = "over" if track.charged is not None else "by its resident sets over"
        words.append(f"{word} its own limit by {size_text(over_bytes)}")
    if track.rules.preemptible:
        words.append("preemptible")
    if blamed.explains(track.rules.job_id):
        words.append("explains the decline")
    if _is_youngest(turn, track):
        words.append("the youngest")
    return words


def why_ended(turn: Turn, track: JobTrack, blamed: Blame) -> str:
    """Return why this job is ended for the host, and not another."""
    words = merits(turn, track, blamed)
    others = [t for t in turn.memory.jobs.values() if not turn.is_stopping(t)]
    is_first = len(others) > 1 and first_to_end(turn, blamed) == track.rules.job_id
    return ", ".join([*words, "the first to go"] if is_first else words)


def why_paused(track: JobTrack, blamed: Blame) -> str:
    """Return why this job is paused for the host: it grows."""
    if blamed.explains(track.rules.job_id):
        return "explains the decline"
    return "one of those that explain the decline" if blamed.shares(track.rules.job_id) else ""


def _is_youngest(turn: Turn, track: JobTrack) -> bool:
    jobs = turn.memory.jobs
    began_ns = [other.rules.started_at_ns for other in jobs.values()]
    if len(jobs) < 2 or max(began_ns) == min(began_ns):  # noqa: PLR2004  # alone it is no rank
        return False
    newest_ns = track.rules.started_at_ns
    return newest_ns == max(began_ns) and began_ns.count(newest_ns) == 1
