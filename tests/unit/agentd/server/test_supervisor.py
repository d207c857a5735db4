"""Jobs under a supervisor, with the test in the warden's place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agentd.core import contract
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    Lost,
    ResourceUsage,
    Running,
    StartFailed,
)
from agentd.errors import (
    DrainingError,
    StoreCorruptError,
    WrongStateError,
)
from agentd.paths import Paths
from agentd.server.runtime.model import JobQuery
from agentd.server.runtime.supervisor import LinkEnd
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_paths
from tests.unit.agentd.server.wardenpeer import (
    DEADLINE_S,
    DRAFT,
    Bench,
    begin,
    bench,
    job_file,
    on_disk,
)


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


def run_on(
    paths: Paths, test: Callable[[Bench], Coroutine[Any, Any, None]], *views: contract.JobView
) -> None:
    """Run the test on a bench of its own."""

    async def on_bench() -> None:
        async with bench(paths, *views) as at:
            await test(at)

    asyncio.run(on_bench())


def test_a_job_lives_and_ends(paths: Paths) -> None:
    """Each report is an event; after the end nothing is left to look at."""

    async def test(at: Bench) -> None:
        job_id = await at.ended()

        info = at.supervisor.get(job_id)
        assert info.state == ENDED
        assert at.events() == ["job.submitted", "job.launched", "job.started", "job.ended"]
        assert info.event_seq == at.supervisor.last_seq() == 4
        assert on_disk(paths) == ({"1"}, set())
        assert at.supervisor.counts() == (0, 1)
        assert [job.spec.id for job in at.supervisor.list(JobQuery()).jobs] == [1]

    run_on(paths, test)


def test_an_end_is_one_line_in_the_log_without_secrets(paths: Paths) -> None:
    """How, by whom, how long; neither arguments nor environment."""

    async def test(at: Bench) -> None:
        final = Ended(5, 9, 1_500_000_000, ExitStatus(9), Cause.USER, ResourceUsage())
        draft = replace(DRAFT, argv=("true", "s3cret"), environment={"PATH": "/bin", "A": "t0ken"})
        with capture_logs() as logs:
            await at.ended(draft, final)

        (line,) = [line for line in logs if line["event"] == "job.ended"]
        assert line == {
            "event": "job.ended",
            "log_level": "info",
            "job_id": 1,
            "state": "ended",
            "exit_code": None,
            "signal": 9,
            "cause": "user",
            "duration_s": 1.5,
        }
        assert "s3cret" not in repr(logs)
        assert "t0ken" not in repr(logs)

    run_on(paths, test)


def test_an_end_that_cannot_be_indexed_is_shown_and_tried_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is right at once; the marker stays until the index is too."""
    monkeypatch.setattr("agentd.server.runtime.endings.RETRY_S", 0.01)

    async def test(at: Bench) -> None:
        job_id = await at.started()
        connection = at.supervisor._store.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        final = StartFailed(9, Cause.SELF, "x" * 2_000, 2, "y" * 8_000)
        at.end(job_id, final)

        assert await at.state(job_id, StartFailed) == final
        assert on_disk(paths) == ({"1"}, {"1"})
        with pytest.raises(WrongStateError, match="not on record yet"):
            await at.supervisor.remove(job_id, "rm")
        connection.execute("PRAGMA max_page_count = 100000")
        await at.settled(job_id)
        assert at.events()[-1] == "job.start_failed"

    run_on(paths, test)


def test_a_torn_exit_record_is_set_aside(paths: Paths) -> None:
    """The end is unknown then, and that is made durable."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        job_file(paths, job_id, "exit.json").write_bytes(b'{"version": 1, "sta')
        at.tell(contract.JobRecorded(job_id))

        lost = await at.state(job_id, Lost)

        assert isinstance(lost, Lost)
        assert lost.cause is Cause.UNKNOWN
        assert "unreadable" in lost.reason
        await at.settled(job_id)
        assert jobdir.read_exit(paths.job(job_id)) == lost
        assert job_file(paths, job_id, "exit.json.corrupt-1").exists()

    run_on(paths, test)


def test_a_gone_job_with_an_exit_record_has_ended(paths: Paths) -> None:
    """Files are the truth, messages are hints."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        jobdir.write_exit(paths.job(job_id), ENDED)
        at.tell(contract.JobGone(job_id, rebooted=False), contract.JobRecorded(job_id))

        assert await at.state(job_id, Ended, Lost) == ENDED

    run_on(paths, test)


def test_a_refused_launch_is_a_failed_start_on_disk(paths: Paths) -> None:
    """With the warden's words; other refusals change nothing."""

    async def test(at: Bench) -> None:
        job_id = (await at.submit()).spec.id
        at.tell(contract.Refused(job_id, "Stop", "no shim"))
        at.tell(contract.Refused(job_id, "Launch", "no more processes"))

        failed = await at.state(job_id, StartFailed)

        assert isinstance(failed, StartFailed)
        assert failed.reason == "no more processes"
        await at.settled(job_id)
        assert jobdir.read_exit(paths.job(job_id)) == failed

    run_on(paths, test)


def test_a_rescue_shim_shows(paths: Paths) -> None:
    """The job runs on under another shim."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        at.tell(contract.ShimReplaced(job_id, 77))
        await at.supervisor.changed(job_id).wait()

        state = at.supervisor.get(job_id).state
        assert isinstance(state, Running)
        assert state.handle.shim_pid == 77

    run_on(paths, test)


def test_a_watcher_misses_nothing_between_reading_and_waiting(paths: Paths) -> None:
    """A change after `changed` wakes, even if nobody waits yet; other jobs' changes do not."""

    async def test(at: Bench) -> None:
        await at.submit()
        first, second, either = (
            at.supervisor.changed(1),
            at.supervisor.changed(2),
            at.supervisor.changed(),
        )
        await at.supervisor.stop(1, None, "s1")

        async with asyncio.timeout(DEADLINE_S):
            await first.wait()
            await either.wait()
        waiting = asyncio.ensure_future(second.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    run_on(paths, test)


def test_drain_ends_the_run_and_refuses_new_jobs(paths: Paths) -> None:
    """The warden says when."""

    async def test(at: Bench) -> None:
        at.tell(contract.Drain())

        assert await at.running is LinkEnd.DRAIN
        with pytest.raises(DrainingError):
            await at.supervisor.submit(DRAFT)

    run_on(paths, test)


def test_the_end_of_the_warden_ends_the_run(paths: Paths) -> None:
    """Nothing can be launched or stopped without it."""

    async def test(at: Bench) -> None:
        at.writer.write_eof()

        assert await at.running is LinkEnd.WARDEN_GONE

    run_on(paths, test)


def test_lines_that_make_no_sense_are_skipped(paths: Paths) -> None:
    """As are types of a later version, and reports about jobs that are not there."""

    async def test(at: Bench) -> None:
        at.writer.write(b'{"type": "Hibernate"}\nnonsense\n{"type": "JobRecorded"}\n')
        at.tell(
            contract.JobPaused(99), contract.JobRecorded(99), contract.JobGone(99, rebooted=True)
        )

        await at.ended()

    run_on(paths, test)


def test_the_agent_can_be_told_to_end(paths: Paths) -> None:
    """The request goes to the warden, which drains the server."""

    async def test(at: Bench) -> None:
        at.supervisor.shut_agent_down()

        await at.heard(contract.Shutdown)
        assert at.supervisor.warden_pid == os.getpid()
        assert at.supervisor.started_at_ns == 7

    run_on(paths, test)


def test_damage_of_the_index_ends_the_run_and_the_next_start_rebuilds(paths: Paths) -> None:
    """Set aside, made anew, nothing lost."""

    async def first(at: Bench) -> None:
        await at.ended()
        at.supervisor._store.connection.execute("UPDATE jobs SET summary = 'nonsense'")

        with pytest.raises(StoreCorruptError):
            at.supervisor.get(1)
        with pytest.raises(StoreCorruptError):
            await at.running

    async def second(at: Bench) -> None:
        assert at.supervisor.get(1).state == ENDED

    run_on(paths, first)
    assert os.path.exists(f"{paths.database}.corrupt-1")
    run_on(paths, second)


def test_many_jobs_at_once_leave_nothing_to_do(paths: Paths) -> None:
    """Many at once: each has its end, every marker is gone."""
    count = 200

    async def test(at: Bench) -> None:
        submits = [asyncio.create_task(at.supervisor.submit(DRAFT)) for _ in range(count)]
        for _ in range(count):
            launch = await at.heard(contract.Launch)
            begin(paths, launch.job_id)
            at.tell(contract.JobStarted(launch.job_id, 5, 42, 1000, 41))
            at.end(launch.job_id)
        await asyncio.gather(*submits)
        for job_id in range(1, count + 1):
            assert await at.state(job_id, Ended) == ENDED
            await at.settled(job_id)
        assert at.supervisor.counts() == (0, count)

    run_on(paths, test)
