"""Jobs that the guard has ended, submitted again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.core.contract import GuardReport, Launch
from agentd.core.guard.model import MemAction
from agentd.core.job import Cause, Ended, ExitStatus, ResourceUsage, StartFailed
from agentd.errors import JobNotFoundError, WrongStateError
from agentd.paths import Paths
from agentd.server.runtime import requeuefile
from agentd.server.runtime.model import Remarks
from agentd.server.runtime.requeue import backoff_s
from agentd.server.runtime.requeuefile import Settlement
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_paths
from tests.unit.agentd.server.wardenpeer import DRAFT, Bench, bench

AGAIN = replace(
    DRAFT,
    name="train",
    labels={"a": "b"},
    mem_limit_bytes=64 << 20,
    mem_action=MemAction.PAUSE,
    preemptible=True,
    requeue_limit=2,
)
BY_GUARD = Ended(5, 9, 4, ExitStatus(9), Cause.GUARD, ResourceUsage(), "stopped by the guard: x")
WELL = GuardReport(
    number=0, enabled=True, dry_run=False, layers=(), host_total_bytes=100,
    host_available_bytes=50, host_rate_bytes_per_s=0, exhausted_after_s=None,
    warn_bytes=15, pause_bytes=8, term_bytes=5, kill_bytes=2,
)  # fmt: skip
LOW = replace(WELL, host_available_bytes=15)


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


@pytest.fixture(name="quick")
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every wait short."""
    for name in ("FIRST_BACKOFF_S", "SPACING_S", "LOOK_S"):
        monkeypatch.setattr(f"agentd.server.runtime.requeue.{name}", 0.01)


def run_on(paths: Paths, test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Run the test on a bench of its own."""

    async def on_bench() -> None:
        async with bench(paths) as at:
            await test(at)

    asyncio.run(on_bench())


def test_the_wait_doubles_up_to_ten_minutes() -> None:
    """10 s, 20 s, 40 s …, never more than 600 s, whatever the count."""
    assert [backoff_s(n) for n in (0, 1, 2, 5, 6, 100)] == [10, 20, 40, 320, 600, 600]


@pytest.mark.usefixtures("quick")
def test_a_job_that_the_guard_ended_is_submitted_again(paths: Paths) -> None:
    """A new job with the same spec; both know of each other; the event says how often."""

    async def test(at: Bench) -> None:
        job_id = await at.ended(AGAIN, BY_GUARD)
        async with at.guarding(WELL) as heard:
            requeued = await at.happened(job_id, "job.requeued")

        assert requeued.detail == "as job 2 (1 of 2)"
        assert at.events(1)[-3:] == ["job.ended", "job.requeue_waiting", "job.requeued"]
        before, after = jobdir.read_spec(paths.job(1)), jobdir.read_spec(paths.job(2))
        assert before is not None
        assert after is not None
        assert (after.requeue_of, after.requeue_count, after.requeue_limit) == (1, 1, 2)
        assert after.uid != before.uid
        environment = {**after.environment, "AGENTCTL_JOB_ID": "1", "AGENTCTL_JOB_UID": before.uid}
        assert before == replace(
            after,
            id=1,
            uid=before.uid,
            idempotency_key="",
            requeue_of=None,
            requeue_count=0,
            environment=environment,
            submitted_at_ns=before.submitted_at_ns,
        )
        assert at.supervisor.get(1).spec.requeued_as == 2
        launch = next(message for message in heard if isinstance(message, Launch))
        assert launch.job_id == 2
        assert (launch.mem_limit_bytes, launch.mem_action) == (64 << 20, MemAction.PAUSE)
        assert (launch.preemptible, launch.grace_s) == (True, 10.0)
        assert requeuefile.read(paths.job(1)) == Settlement(2)

    run_on(paths, test)


@pytest.mark.usefixtures("quick")
def test_a_job_is_requeued_at_most_as_often_as_was_asked(paths: Paths) -> None:
    """In all: its successors count."""

    async def test(at: Bench) -> None:
        await at.ended(AGAIN, BY_GUARD)
        for job_id in (1, 2):
            async with at.guarding(WELL):
                await at.happened(job_id, "job.requeued")
                at.end(job_id + 1, BY_GUARD)
                await at.state(job_id + 1, Ended)
        await at.settled(3)
        assert at.supervisor._requeues._due_s == {}
        assert at.supervisor._store.requeues_owed() == []
        assert at.supervisor.counts() == (0, 3)

    run_on(paths, test)


@pytest.mark.parametrize(
    "final",
    [
        ENDED,
        replace(BY_GUARD, cause=Cause.USER),
        replace(BY_GUARD, cause=Cause.TIMEOUT),
        StartFailed(9, Cause.SELF, "no such program"),
    ],
)
def test_only_an_end_by_the_guard_is_requeued(paths: Paths, final: Ended) -> None:
    """Whatever else ended the job, it stays ended."""

    async def test(at: Bench) -> None:
        await at.ended(AGAIN, final)
        assert at.supervisor._store.requeues_owed() == []

    run_on(paths, test)


@pytest.mark.usefixtures("quick")
def test_it_waits_until_the_memory_is_back(paths: Paths) -> None:
    """At the warn mark is not above it; not knowing is not yet."""

    async def test(at: Bench) -> None:
        await at.ended(AGAIN, BY_GUARD)
        async with at.guarding(LOW):
            assert not await at.supervisor._guard.is_memory_back()
        assert "job.requeued" not in at.events(1)
        async with at.guarding(WELL):
            await at.happened(1, "job.requeued")

    run_on(paths, test)


@pytest.mark.usefixtures("quick")
def test_it_does_not_wait_for_memory_for_ever(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes it goes, even if nobody can say how the memory stands."""
    monkeypatch.setattr("agentd.server.runtime.requeue.LONGEST_MEMORY_WAIT_S", 0.1)
    monkeypatch.setattr("agentd.server.runtime.guarddesk.ANSWER_S", 0.01)

    async def test(at: Bench) -> None:
        await at.ended(AGAIN, BY_GUARD)
        await at.happened(1, "job.requeued")

    run_on(paths, test)


@pytest.mark.parametrize("by", ["stop", "remove"])
def test_stopping_or_removing_the_predecessor_cancels_it(paths: Paths, by: str) -> None:
    """For good: a restart, or an index made anew, does not bring it back."""

    async def test(at: Bench) -> None:
        job_id = await at.ended(AGAIN, BY_GUARD)
        if by == "remove":
            await at.supervisor.remove(job_id, "k")
            with pytest.raises(JobNotFoundError):
                at.supervisor.get(job_id)
        else:
            info = await at.supervisor.stop(job_id, None, "k")
            assert info.state == BY_GUARD
            assert (await at.supervisor.stop(job_id, None, "k")).spec.id == job_id
            with pytest.raises(WrongStateError, match="is over"):
                await at.supervisor.stop(job_id, None, "k2")
            assert at.events(job_id)[-1] == "job.requeue_cancelled"
        assert at.supervisor._requeues._due_s == {}

    async def nothing_is_owed(at: Bench) -> None:
        assert at.supervisor._requeues._due_s == {}

    run_on(paths, test)
    run_on(paths, nothing_is_owed)
    Path(paths.database).unlink()
    run_on(paths, nothing_is_owed)


@pytest.mark.usefixtures("quick")
def test_a_job_that_the_user_stopped_as_well_is_not_requeued(paths: Paths) -> None:
    """They want it gone, whoever was first."""

    async def test(at: Bench) -> None:
        job_id = await at.started(AGAIN)
        await at.supervisor.stop(job_id, None, "k")
        at.end(job_id, BY_GUARD)
        async with at.guarding(WELL):
            cancelled = await at.happened(job_id, "job.requeue_cancelled")
        assert "stopped" in cancelled.detail
        assert at.supervisor.get(job_id).spec.requeued_as is None

    run_on(paths, test)


@pytest.mark.usefixtures("quick")
def test_a_job_that_cannot_start_again_says_why(paths: Paths, tmp_path: Path) -> None:
    """Its directory is gone: no successor, and the event names it."""
    place = tmp_path / "work"
    place.mkdir()

    async def test(at: Bench) -> None:
        job_id = await at.started(replace(AGAIN, cwd=str(place)))
        place.rmdir()
        at.end(job_id, BY_GUARD)
        async with at.guarding(WELL):
            cancelled = await at.happened(job_id, "job.requeue_cancelled")
        assert "cwd" in cancelled.detail
        assert at.supervisor.counts() == (0, 1)

    run_on(paths, test)


def test_what_is_owed_is_found_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart from the index, and from the files when that is lost."""

    async def owe(at: Bench) -> None:
        await at.ended(AGAIN, BY_GUARD)

    async def is_owed(at: Bench) -> None:
        assert list(at.supervisor._requeues._due_s) == [1]

    async def pays(at: Bench) -> None:
        async with at.guarding(WELL):
            await at.happened(1, "job.requeued")

    async def is_paid(at: Bench) -> None:
        assert at.supervisor._requeues._due_s == {}
        assert at.supervisor.get(1).spec.requeued_as == 2

    run_on(paths, owe)
    run_on(paths, is_owed)
    Path(paths.database).unlink()
    run_on(paths, is_owed)
    monkeypatch.setattr("agentd.server.runtime.requeue.FIRST_BACKOFF_S", 0.01)
    run_on(paths, pays)
    run_on(paths, is_paid)
    Path(paths.database).unlink()
    run_on(paths, is_paid)


@pytest.mark.usefixtures("quick")
def test_two_requeues_never_come_at_one_moment(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits until the first one's memory can be seen."""
    monkeypatch.setattr("agentd.server.runtime.requeue.SPACING_S", 600.0)

    async def test(at: Bench) -> None:
        async with at.guarding(WELL):
            for job_id in (1, 2):
                await at.supervisor.submit(AGAIN)
                at.end(job_id, BY_GUARD)
                await at.state(job_id, Ended)
            await at.happened(1, "job.requeued")
            await at.settled(2)
            assert list(at.supervisor._requeues._due_s) == [2]
            assert "job.requeued" not in at.events(2)

    run_on(paths, test)


def test_an_index_of_the_version_before_requeues_is_taken_over(paths: Paths) -> None:
    """Nothing is set aside and no job is lost."""

    async def one(at: Bench) -> None:
        await at.ended()

    async def still_one(at: Bench) -> None:
        assert at.supervisor.counts() == (0, 1)
        assert at.supervisor._store.requeues_owed() == []

    run_on(paths, one)
    with sqlite3.connect(paths.database) as connection:
        connection.execute("DROP TABLE requeues_owed")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    run_on(paths, still_one)
    assert not list(Path(paths.state_dir).glob("jobs.db.corrupt*"))


def test_a_requeue_that_waits_can_be_seen(paths: Paths) -> None:
    """When it may be tried; once it is cancelled, why; nothing of the kind for all others."""

    async def test(at: Bench) -> None:
        began_ns = time.time_ns()
        job_id = await at.ended(AGAIN, BY_GUARD)
        remarks = at.supervisor.remarks(at.supervisor.get(job_id))
        assert remarks.requeue_at_ns is not None
        assert 9 < (remarks.requeue_at_ns - began_ns) / 1e9 < 60
        await at.supervisor.stop(job_id, None, "k")
        remarks = at.supervisor.remarks(at.supervisor.get(job_id))
        assert remarks == Remarks(requeue_cancelled="stopped by the user")
        once = await at.ended(replace(AGAIN, idempotency_key="b", requeue_limit=0), BY_GUARD)
        assert at.supervisor.remarks(at.supervisor.get(once)) == Remarks()

    run_on(paths, test)
