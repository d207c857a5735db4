"""What happens to jobs, from a cursor on; ends by itself when all the named ones are over.

The supervisor keeps the events; a watcher keeps one number. Nothing is queued for it, so a
stalled client costs nothing and misses nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from agentd.core.job import Ended, Lost, StartFailed
from agentd.errors import JobNotFoundError
from agentd.server.runtime.events import Change
from agentd.server.runtime.model import Event, JobInfo

#: Events read at once.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is watched. No job ids: all jobs."""

    job_ids: frozenset[int]
    #: None: begin with the current state of the named jobs.
    after_seq: int | None
    follow: bool


@dataclass(frozen=True, slots=True)
class WatchFin:
    """The explicit end; `last_seq` is the cursor to go on from."""

    last_seq: int


WatchItem = JobInfo | Event | WatchFin


class Jobs(Protocol):
    """What a watcher needs of the supervisor."""

    def get(self, job_id: int) -> JobInfo:
        """Return the job. Raises JobNotFoundError."""

    def events_after(self, seq: int, job_ids: frozenset[int], limit: int) -> tuple[Event, ...]:
        """Return the oldest events after `seq`."""

    def last_seq(self) -> int:
        """Return the newest event's."""

    def changed(self, job_id: int | None = None) -> Change:
        """Return the next change."""


async def watch(jobs: Jobs, request: WatchRequest) -> AsyncGenerator[WatchItem, None]:
    """Yield snapshots, events and one `WatchFin`.

    Raises:
        JobNotFoundError: A named job does not exist.

    """
    seq = jobs.last_seq()
    named = sorted(request.job_ids)
    snapshots = [jobs.get(job_id) for job_id in named]
    # A cursor beyond the last event is from before the index was rebuilt.
    if request.after_seq is not None and request.after_seq <= seq:
        seq = request.after_seq
    else:
        for snapshot in snapshots:
            yield snapshot
    one = named[0] if len(named) == 1 else None
    while True:
        # Before the reading: what happens during it ends the wait.
        change = jobs.changed(one)
        finished = not request.follow or (bool(named) and _all_over(jobs, named))
        last = jobs.last_seq()
        while batch := jobs.events_after(seq, request.job_ids, _BATCH):
            for event in batch:
                yield event
            seq = batch[-1].seq
        if finished:
            yield WatchFin(max(seq, last))
            return
        await change.wait()


def _all_over(jobs: Jobs, job_ids: list[int]) -> bool:
    return all(_is_over(jobs, job_id) for job_id in job_ids)


def _is_over(jobs: Jobs, job_id: int) -> bool:
    try:
        return isinstance(jobs.get(job_id).state, Ended | StartFailed | Lost)
    except JobNotFoundError:
        # Removed while it was watched: nothing will happen to it any more.
        return True
