"""Jobs under a supervisor, with the test in the warden's place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
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
    Paused,
    Queued,
    ResourceUsage,
    Running,
    StartFailed,
    Starting,
    Stopping,
)
from agentd.errors import (
    DiskFullError,
    DrainingError,
    InvalidSpecError,
    JobNotFoundError,
    StoreCorruptError,
    WrongStateError,
)
from agentd.paths import Paths
from agentd.server.runtime import requests
from agentd.server.runtime.model import Defaults, JobQuery
from agentd.server.runtime.store import Note
from agentd.server.runtime.supervisor import LinkEnd
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec
from tests.unit.agentd.server.wardenpeer import (
    DEADLINE_S,
    DRAFT,
    Bench,
    begin,
    bench,
    job_file,
    on_disk,
)

ROOT = Path(__file__).resolve().parents[4]


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


def test_a_submit_is_on_disk_before_it_is_answered(paths: Paths) -> None:
    """Marker, directory and row are there, and the launch is asked for."""

    async def test(at: Bench) -> None:
        info = await at.submit(replace(DRAFT, name="train", labels={"team": "a"}))

        assert isinstance(info.state, Starting)
        assert on_disk(paths) == ({"1"}, {"1"})
        spec = jobdir.read_spec(paths.job(1))
        assert spec is not None
        assert (spec.id, spec.name, spec.argv) == (1, "train", ("true",))
        assert spec.environment["AGENTCTL_JOB_ID"] == "1"
        assert at.supervisor.get(1) == info
        assert at.supervisor.counts() == (1, 1)

    run_on(paths, test)


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


def test_one_key_is_one_job_even_at_once(paths: Paths) -> None:
    """Ten submits under one key share one job and one launch."""

    async def test(at: Bench) -> None:
        draft = replace(DRAFT, idempotency_key="k1")
        infos = await asyncio.gather(*(at.supervisor.submit(draft) for _ in range(10)))

        assert {info.spec.id for info in infos} == {1}
        await at.heard(contract.Launch)
        assert (await at.supervisor.submit(draft)).spec.id == 1
        await at.heard_nothing()

    run_on(paths, test)


def test_one_key_is_one_job_across_a_restart(paths: Paths) -> None:
    """With the index, without it, and after the job was removed."""
    draft = replace(DRAFT, idempotency_key="k1")

    async def first(at: Bench) -> None:
        await at.ended(draft)

    async def again(at: Bench) -> None:
        assert (await at.supervisor.submit(draft)).state == ENDED
        await at.heard_nothing()

    async def after_removal(at: Bench) -> None:
        await at.supervisor.remove(1, "rm")
        with pytest.raises(JobNotFoundError):
            await at.supervisor.submit(draft)
        await at.heard_nothing()

    run_on(paths, first)
    run_on(paths, again)
    os.unlink(paths.database)
    run_on(paths, again)
    run_on(paths, after_removal)


def test_submits_without_a_key_are_all_their_own(paths: Paths) -> None:
    """Nobody asked for the promise."""

    async def test(at: Bench) -> None:
        infos = await asyncio.gather(*(at.supervisor.submit(DRAFT) for _ in range(20)))

        assert sorted(info.spec.id for info in infos) == list(range(1, 21))

    run_on(paths, test)


def test_a_refused_draft_leaves_nothing_behind(paths: Paths) -> None:
    """No directory, no row, no id used up."""

    async def test(at: Bench) -> None:
        with pytest.raises(InvalidSpecError):
            await at.supervisor.submit(replace(DRAFT, argv=(), idempotency_key="k1"))

        assert on_disk(paths) == (set(), set())
        assert at.supervisor.last_seq() == 0
        assert (await at.submit(replace(DRAFT, idempotency_key="k1"))).spec.id == 1

    run_on(paths, test)


def test_a_client_that_goes_away_does_not_leave_half_a_job(paths: Paths) -> None:
    """The submit goes on without it."""

    async def test(at: Bench) -> None:
        asking = asyncio.create_task(at.supervisor.submit(replace(DRAFT, idempotency_key="k1")))
        await asyncio.sleep(0)
        asking.cancel()

        assert (await at.heard(contract.Launch)).job_id == 1
        assert isinstance(at.supervisor.get(1).state, Starting)

    run_on(paths, test)


def test_defaults_can_change_while_it_runs(paths: Paths) -> None:
    """From the next submit on."""

    async def test(at: Bench) -> None:
        await at.submit()
        at.supervisor.set_defaults(Defaults(grace_s=99.0))
        await at.submit()

        specs = [jobdir.read_spec(paths.job(job_id)) for job_id in (1, 2)]
        assert [spec.grace_s for spec in specs if spec is not None] == [10.0, 99.0]

    run_on(paths, test)


def test_an_index_without_room_refuses_a_submit_and_leaves_nothing(paths: Paths) -> None:
    """Directory and marker go again; once there is room, the next submit works."""

    async def test(at: Bench) -> None:
        await at.ended()
        connection = at.supervisor._store.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        huge = replace(DRAFT, argv=("true", "x" * 100_000))

        with pytest.raises(DiskFullError, match="disk is full"):
            await at.supervisor.submit(huge)

        assert on_disk(paths) == ({"1"}, set())
        connection.execute("PRAGMA max_page_count = 100000")
        assert isinstance((await at.submit(huge)).state, Starting)

    run_on(paths, test)


_FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from agentd.errors import DiskFullError
from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.server.wardenpeer import DRAFT, bench, on_disk

async def main(directory):
    paths = make_paths(directory)
    async with bench(paths) as at:
        job_id = await at.started()
        ballast = directory / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        refused = ""
        try:
            await at.supervisor.submit(DRAFT)
        except DiskFullError as error:
            refused = str(error)
        assert "disk is full" in refused, refused
        assert on_disk(paths) == ({"1"}, {"1"}), on_disk(paths)
        at.end(job_id)
        at.supervisor.get(job_id)
        ballast.unlink()
        await at.settled(job_id)
        await at.submit()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.root
def test_a_full_disk_refuses_a_submit_and_no_end_is_lost(tmp_path: Path) -> None:
    """On a small tmpfs of its own: one clear line, no half-made job, the end is indexed."""
    script = f'mount -t tmpfs -o size=2m,mode=700 none {tmp_path} && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, "-c", _FULL_DISK]

    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


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

        with pytest.raises(WrongStateError, match="^job 1 is over: exited 0$"):
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


def test_what_a_lost_job_left_behind_can_be_stopped(paths: Paths) -> None:
    """Found by its uid in the environment, shown, swept; final as it is."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        spec = jobdir.read_spec(paths.job(job_id))
        assert spec is not None
        left = subprocess.Popen(["sleep", "60"], env={**spec.environment})
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

        with pytest.raises(WrongStateError, match="^job 1 is starting; it cannot be signalled now"):
            await ask.signal(job_id, signal.SIGUSR1, "a")
        with pytest.raises(WrongStateError, match="^job 1 is starting; it cannot be paused now"):
            await ask.pause(job_id, "b")
        with pytest.raises(WrongStateError, match="^job 1 is starting; stop it before removing it"):
            await ask.remove(job_id, "c")
        with pytest.raises(InvalidSpecError, match="there is no signal 99"):
            await ask.signal(job_id, 99, "d")
        with pytest.raises(InvalidSpecError, match="grace of -1.0 s"):
            await ask.stop(job_id, -1.0, "e")
        with pytest.raises(JobNotFoundError, match="there is no job 7"):
            await ask.stop(7, None, "f")
        await at.heard_nothing()

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


def test_a_removed_job_is_gone_and_its_id_is_not_used_again(paths: Paths) -> None:
    """Directory, row and logs; the last event stays; a new start counts on."""

    async def first(at: Bench) -> None:
        job_id = await at.ended()
        await asyncio.gather(*(at.supervisor.remove(job_id, "rm") for _ in range(3)))
        await at.supervisor.remove(job_id, "rm")

        assert on_disk(paths) == (set(), set())
        with pytest.raises(JobNotFoundError):
            at.supervisor.get(job_id)
        assert at.events(1) == at.events() or at.events()[-1] == "job.removed"
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


def test_a_thousand_jobs_leave_nothing_to_do(paths: Paths) -> None:
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
