"""What may be asked of a job that exists, with the test in the warden's place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.core import contract
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    Lost,
    Paused,
    Queued,
    Running,
    StartFailed,
    Stopping,
)
from agentd.errors import (
    InvalidSpecError,
    JobNotFoundError,
    WrongStateError,
)
from agentd.paths import Paths
from agentd.server.runtime import requests
from agentd.server.runtime.store import Note
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec
from tests.unit.agentd.server.wardenpeer import (
    DRAFT,
    Bench,
    bench,
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


def test_a_stop_reaches_the_shim_with_the_jobs_own_grace(paths: Paths) -> None:
    """Once for each key; another stop, with a shorter grace, is passed on again."""

    async def test(at: Bench) -> None:
        job_id = await at.started(replace(DRAFT, grace_s=33.0))

        info = await at.supervisor.stop(job_id, None, "s1")
        await at.supervisor.stop(job_id, None, "s1")
        await at.supervisor.stop(job_id, 0.0, "s2")

        assert isinstance(info.state, Stopping)
        assert info.state.cause is Cause.USER
        assert await at.heard(contract.Stop) == contract.Stop(job_id, 33.0, Cause.USER)
        assert await at.heard(contract.Stop) == contract.Stop(job_id, 0.0, Cause.USER)
        at.tell(contract.JobStopping(job_id, Cause.USER))
        at.end(job_id, replace(ENDED, status=ExitStatus(15), cause=Cause.USER))
        await at.state(job_id, Ended)
        assert at.events()[-3:] == ["job.stop_requested", "job.stop_requested", "job.ended"]

    run_on(paths, test)


def test_a_job_that_is_over_cannot_be_stopped(paths: Paths) -> None:
    """One line that says how it ended."""

    async def test(at: Bench) -> None:
        job_id = await at.ended()

        with pytest.raises(WrongStateError, match=r"^job 1 is over: exited 0$"):
            await at.supervisor.stop(job_id, None, "s1")
        await at.heard_nothing()

    run_on(paths, test)


def test_a_stop_before_the_start_is_passed_on_and_the_start_shows(paths: Paths) -> None:
    """The job is stopping from the request on; its leader appears in it."""

    async def test(at: Bench) -> None:
        job_id = (await at.submit()).spec.id
        await at.supervisor.stop(job_id, 1.0, "s1")
        await at.heard(contract.Stop)
        at.tell(contract.JobStarted(job_id, 5, 42, 1000, 41))
        await at.supervisor.changed(job_id).wait()

        state = at.supervisor.get(job_id).state
        assert isinstance(state, Stopping)
        assert state.handle is not None

    run_on(paths, test)


def test_a_queued_job_that_is_stopped_never_starts(paths: Paths) -> None:
    """Its end is on disk and indexed when the stop returns."""

    async def test(at: Bench) -> None:
        spec = make_spec(1)
        make_directory(paths, spec)
        at.supervisor._board.add(spec, [Note(1, "job.submitted", Queued())])

        info = await at.supervisor.stop(1, None, "s1")

        assert isinstance(info.state, StartFailed)
        assert (info.state.cause, info.state.reason) == (Cause.USER, "stopped before it started")
        assert jobdir.read_exit(paths.job(1)) == info.state
        await at.settled(1)
        await at.heard_nothing()

    run_on(paths, test)


def _leave_behind(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], env={**environment})


def test_what_a_lost_job_left_behind_can_be_stopped(paths: Paths) -> None:
    """Found by its uid in the environment, shown, swept; final as it is."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        spec = jobdir.read_spec(paths.job(job_id))
        assert spec is not None
        left = _leave_behind(spec.environment)
        try:
            at.tell(contract.JobGone(job_id, rebooted=False))
            lost = await at.state(job_id, Lost)
        finally:
            left.kill()
            left.wait()

        assert isinstance(lost, Lost)
        assert lost.surviving_pids == (left.pid,)
        assert lost.started_at_ns == 5
        await at.supervisor.stop(job_id, 2.0, "s1")
        await at.supervisor.stop(job_id, 2.0, "s1")
        assert await at.heard(contract.Sweep) == contract.Sweep(job_id, 2.0)
        await at.heard_nothing()

    run_on(paths, test)


def test_pause_and_resume_return_once_confirmed(paths: Paths) -> None:
    """The state is the shim's word, not the request's."""

    async def test(at: Bench) -> None:
        job_id = await at.started()

        pausing = asyncio.create_task(at.supervisor.pause(job_id, "p1"))
        await at.heard(contract.Pause)
        assert not pausing.done()
        at.tell(contract.JobPaused(job_id))
        assert isinstance((await pausing).state, Paused)

        resuming = asyncio.create_task(at.supervisor.resume(job_id, "r1"))
        await at.heard(contract.Resume)
        at.tell(contract.JobResumed(job_id))
        assert isinstance((await resuming).state, Running)

    run_on(paths, test)


def test_an_unconfirmed_pause_returns_the_job_as_it_is(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, but not for ever."""
    monkeypatch.setattr(requests, "CONFIRM_S", 0.01)

    async def test(at: Bench) -> None:
        job_id = await at.started()

        assert isinstance((await at.supervisor.pause(job_id, "p1")).state, Running)

    run_on(paths, test)


def test_a_job_that_ends_while_it_is_paused_has_ended(paths: Paths) -> None:
    """A pause is not in the way of an end."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        at.tell(contract.JobPaused(job_id))
        await at.state(job_id, Paused)
        at.end(job_id)

        assert await at.state(job_id, Ended) == ENDED

    run_on(paths, test)


def test_a_signal_is_passed_on_and_noted(paths: Paths) -> None:
    """Once for each key, with its name in the events."""

    async def test(at: Bench) -> None:
        job_id = await at.started()

        await at.supervisor.signal(job_id, signal.SIGUSR1, "g1")
        await at.supervisor.signal(job_id, signal.SIGUSR1, "g1")

        assert (await at.heard(contract.SendSignal)).signal_number == signal.SIGUSR1
        await at.heard_nothing()
        (event,) = at.supervisor.events_after(3, frozenset(), 10)
        assert (event.kind, event.detail) == ("job.signal_sent", "SIGUSR1")

    run_on(paths, test)


def test_requests_that_make_no_sense_are_refused(paths: Paths) -> None:
    """Each with one line, and nothing reaches the warden."""

    async def test(at: Bench) -> None:
        job_id = (await at.submit()).spec.id
        ask = at.supervisor

        with pytest.raises(
            WrongStateError, match=r"^job 1 is starting; it cannot be signalled now"
        ):
            await ask.signal(job_id, signal.SIGUSR1, "a")
        with pytest.raises(WrongStateError, match=r"^job 1 is starting; it cannot be paused now"):
            await ask.pause(job_id, "b")
        with pytest.raises(
            WrongStateError, match=r"^job 1 is starting; stop it before removing it"
        ):
            await ask.remove(job_id, "c")
        with pytest.raises(InvalidSpecError, match="there is no signal 99"):
            await ask.signal(job_id, 99, "d")
        with pytest.raises(InvalidSpecError, match=r"grace of -1.0 s"):
            await ask.stop(job_id, -1.0, "e")
        with pytest.raises(JobNotFoundError, match="there is no job 7"):
            await ask.stop(7, None, "f")
        await at.heard_nothing()

    run_on(paths, test)


def test_a_removed_job_is_gone_and_its_id_is_not_used_again(paths: Paths) -> None:
    """Directory, row and logs; the last event stays; a new start counts on."""

    async def first(at: Bench) -> None:
        job_id = await at.ended()
        await asyncio.gather(*(at.supervisor.remove(job_id, "rm") for _ in range(3)))
        await at.supervisor.remove(job_id, "rm")

        assert on_disk(paths) == (set(), set())
        with pytest.raises(JobNotFoundError):
            at.supervisor.get(job_id)
        assert at.events()[-1] == "job.removed"
        assert at.supervisor.counts() == (0, 0)
        with pytest.raises(JobNotFoundError):
            await at.supervisor.remove(job_id, "another")

    async def second(at: Bench) -> None:
        assert (await at.submit()).spec.id == 2

    run_on(paths, first)
    os.unlink(paths.database)
    run_on(paths, second)


@pytest.mark.parametrize("has_row", [True, False])
def test_a_removal_cut_short_is_finished_at_the_next_start(paths: Paths, *, has_row: bool) -> None:
    """Whoever finds jobs/.rm-1 goes on where the crash was."""

    async def first(at: Bench) -> None:
        await at.ended()
        if not has_row:
            at.supervisor._board.drop(1, ())

    async def second(at: Bench) -> None:
        assert on_disk(paths) == (set(), set())
        with pytest.raises(JobNotFoundError):
            at.supervisor.get(1)

    run_on(paths, first)
    os.rename(paths.job(1), f"{paths.jobs}/.rm-1")
    run_on(paths, second)
