"""Which jobs have to give their memory back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from agentd.core.guard.blame import Blame
from agentd.core.guard.state import JobTrack
from agentd.core.guard.turn import freeable, holding


def overuse_bytes(track: JobTrack) -> int:
    """Return by how much a job is over its own limit; 0 if it is not, or has none."""
    limit_bytes = track.rules.limit_bytes
    return 0 if limit_bytes is None else max(0, holding(track) - limit_bytes)


def victim_order(tracks: Iterable[JobTrack], blamed: Blame) -> list[JobTrack]:
    """Return the jobs, the best victim first.

    Over its own limit, by how much; preemptible; explains the decline; least progress, which
    is the youngest; most to give back.
    """

    def key(track: JobTrack) -> tuple[int, bool, bool, int, int, int]:
        job_id = track.rules.job_id
        return (
            -overuse_bytes(track),
            not track.rules.preemptible,
            not blamed.explains(job_id),
            -track.rules.started_at_ns,
            -freeable(track),
            # The later of two alike: the id grows.
            -job_id,
        )

    return sorted(tracks, key=key)


def smallest_set(
    ordered: Sequence[JobTrack],
    needed_bytes: int,
    gives: Callable[[JobTrack], int] = freeable,
) -> list[JobTrack]:
    """Return the fewest of the first that give back what is needed, best victim first.

    Nobody is in it without whom the others would do. If all of them together do not give
    enough, one alone, the first that gives half of what the largest would: what came back
    decides about the next.
    """
    chosen: list[JobTrack] = []
    sum_bytes = 0
    for track in ordered:
        if sum_bytes >= needed_bytes:
            break
        chosen.append(track)
        sum_bytes += gives(track)
    if sum_bytes < needed_bytes:
        most_bytes = max((gives(track) for track in chosen), default=0)
        return [track for track in chosen if gives(track) * 2 >= most_bytes][:1]
    for track in reversed(chosen[:]):
        if sum_bytes - gives(track) >= needed_bytes:
            chosen.remove(track)
            sum_bytes -= gives(track)
    return chosen
