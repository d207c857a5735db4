"""Watching jobs from a cursor on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    MergedOutput,
    ResourceUsage,
    Starting,
    State,
)
from agentd.errors import JobNotFoundError
from agentd.server.runtime.events import Broadcast, Change
from agentd.server.runtime.jobwatch import WatchFin, WatchItem, WatchRequest, watch
from agentd.server.runtime.model import Event, JobInfo, JobSummary

ENDED = Ended(0, 1, 1, ExitStatus(0), Cause.SELF, ResourceUsage())


@dataclass
class Jobs:
    """As much of a supervisor as a watch needs."""

    events: list[Event] = field(default_factory=list)
    jobs: dict[int, JobInfo] = field(default_factory=dict)
    broadcast: Broadcast = field(default_factory=Broadcast)

    def happen(self, job_id: int, state: State) -> None:
        """Change a job, note the event, tell."""
        seq = len(self.events) + 1
        summary = JobSummary(job_id, "", ("true",), "/", {}, 0, None, MergedOutput())
        self.jobs[job_id] = JobInfo(summary, state, seq)
        self.events.append(Event(seq, 0, "job.changed", self.jobs[job_id], ""))
        self.broadcast.announce(job_id)

    def get(self, job_id: int) -> JobInfo:
        """Return a job."""
        if job_id not in self.jobs:
            raise JobNotFoundError(f"there is no job {job_id}")
        return self.jobs[job_id]

    def events_after(self, seq: int, job_ids: frozenset[int], limit: int) -> tuple[Event, ...]:
        """Return the oldest after `seq`."""
        after = [event for event in self.events if event.seq > seq]
        return tuple(e for e in after if not job_ids or e.job.spec.id in job_ids)[:limit]

    def last_seq(self) -> int:
        """Return the newest."""
        return len(self.events)

    def changed(self, job_id: int | None = None) -> Change:
        """Return the next change."""
        return self.broadcast.changed(job_id)


def collect(jobs: Jobs, request: WatchRequest, *later: tuple[int, State]) -> list[WatchItem]:
    """Watch to the end, while `later` happens one after another."""

    async def run() -> list[WatchItem]:
        loop = asyncio.get_running_loop()
        for number, (job_id, state) in enumerate(later):
            loop.call_later(0.01 * (number + 1), jobs.happen, job_id, state)
        async with asyncio.timeout(5):
            return [item async for item in watch(jobs, request)]

    return asyncio.run(run())


def seqs(items: list[WatchItem]) -> list[int]:
    """Return the numbers of the events among the items."""
    return [item.seq for item in items if isinstance(item, Event)]


def happened(*pairs: tuple[int, State]) -> Jobs:
    """Return jobs to which this has happened."""
    jobs = Jobs()
    for job_id, state in pairs:
        jobs.happen(job_id, state)
    return jobs


def test_without_a_cursor_the_current_state_comes_first() -> None:
    """Then what happens from now on, until the named job is over."""
    jobs = happened((1, Starting()))
    first = jobs.get(1)
    items = collect(jobs, WatchRequest(frozenset({1}), None, follow=True), (1, ENDED))
    assert items[0] == first
    assert seqs(items) == [2]
    assert items[-1] == WatchFin(2)


def test_with_a_cursor_nothing_is_sent_twice_and_nothing_is_missed() -> None:
    """Also over more events than one batch holds."""
    jobs = happened(*[(1 + n % 3, Starting()) for n in range(250)])
    items = collect(jobs, WatchRequest(frozenset(), 17, follow=False))
    assert seqs(items) == list(range(18, 251))
    assert items[-1] == WatchFin(250)


def test_without_follow_it_ends_with_the_newest_event() -> None:
    """Nothing is waited for, whatever still runs; the cursor covers other jobs' events."""
    jobs = happened((1, Starting()), (2, Starting()))
    assert collect(jobs, WatchRequest(frozenset({1}), 0, follow=False)) == [
        jobs.events[0],
        WatchFin(2),
    ]


def test_it_ends_once_all_named_jobs_are_over() -> None:
    """Not before, and not for the sake of others."""
    jobs = happened((1, Starting()), (2, Starting()), (3, Starting()))
    request = WatchRequest(frozenset({1, 2}), 3, follow=True)
    items = collect(jobs, request, (1, ENDED), (3, ENDED), (2, ENDED))
    assert seqs(items) == [4, 6]
    assert items[-1] == WatchFin(6)


def test_a_cursor_from_before_the_index_was_rebuilt_starts_with_the_state() -> None:
    """Its number means nothing any more; the state says all."""
    jobs = happened((1, ENDED))
    items = collect(jobs, WatchRequest(frozenset({1}), 99, follow=True))
    assert items == [jobs.get(1), WatchFin(1)]


def test_an_unknown_job_is_an_error() -> None:
    """Whoever waits for it would wait for ever."""
    with pytest.raises(JobNotFoundError):
        collect(Jobs(), WatchRequest(frozenset({7}), None, follow=True))
