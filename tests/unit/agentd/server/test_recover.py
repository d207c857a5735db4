"""What a new server makes of what it finds."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agentd.core import contract
from agentd.core.contract import JobView
from agentd.core.job import (
    Cause,
    Ended,
    LeaderHandle,
    Lost,
    Paused,
    ProcessId,
    Queued,
    Running,
    StartFailed,
    Starting,
    State,
    Stopping,
)
from agentd.errors import JobNotFoundError, WardenGoneError
from agentd.paths import Paths
from agentd.server.runtime import codec, recover
from agentd.server.runtime.model import Defaults
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.store import Note
from agentd.server.runtime.supervisor import Supervisor
from agentd.server.runtime.wardenlink import open_link
from agentd.system import clock, jobdir, locks
from tests.helpers.wait import holds_for
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec
from tests.unit.agentd.server.wardenpeer import Bench, begin, bench, job_file, on_disk

HANDLE = LeaderHandle(5, ProcessId(42, 1000), 41)
VIEW = JobView(1, "running", 5, 42, 1000, 41)


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent whose server ran in this boot and saw no job."""
    paths = make_paths(tmp_path)
    store = open_store(paths)
    store.set_meta("boot_id", clock.boot_id())
    store.close()
    return paths


def make_row(paths: Paths, job_id: int, *states: State, key: str = "") -> None:
    """Have the index know the job, queued first, then in these states."""
    store = open_store(paths)
    if store.get(job_id) is None:
        store.add(make_spec(job_id, key=key), [Note(1, "job.submitted", Queued())])
    for state in states:
        store.record(codec.summary_of(make_spec(job_id)), Note(2, "job.changed", state))
    store.close()


def recovered(
    paths: Paths, test: Callable[[Bench], Coroutine[Any, Any, None]], *views: JobView
) -> None:
    """Start a server on what is there."""

    async def on_bench() -> None:
        async with bench(paths, *views) as at:
            await test(at)

    asyncio.run(on_bench())


@contextmanager
def shim_lock(paths: Paths, job_id: int) -> Iterator[None]:
    """Hold the pidfile's lock as a living shim does."""
    descriptor = os.open(f"{paths.job(job_id)}/{jobdir.PID}", os.O_RDWR)
    assert locks.try_lock(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_marker_without_a_directory_is_removed(paths: Paths) -> None:
    """Crashed before the directory: never acknowledged, nothing to do."""
    Path(f"{paths.live}/1").touch()

    async def test(at: Bench) -> None:
        assert on_disk(paths) == (set(), set())
        await at.heard_nothing()
        assert (await at.submit()).spec.id == 2

    recovered(paths, test)


def test_a_half_made_directory_is_removed(paths: Paths) -> None:
    """Crashed before spec.json: never acknowledged."""
    directory = make_directory(paths, make_spec(1))
    os.unlink(f"{directory}/spec.json")

    async def test(at: Bench) -> None:
        assert on_disk(paths) == (set(), set())
        await at.heard_nothing()

    recovered(paths, test)


@pytest.mark.parametrize("states", [None, (), (Starting(),)], ids=["no row", "queued", "starting"])
def test_a_job_that_never_began_is_launched(paths: Paths, states: tuple[State, ...] | None) -> None:
    """Crashed anywhere between spec.json and the launch: the job is real."""
    make_directory(paths, make_spec(1, key="k1"))
    if states is not None:
        make_row(paths, 1, *states, key="k1")

    async def test(at: Bench) -> None:
        assert (await at.heard(contract.Launch)).job_id == 1
        assert isinstance(at.supervisor.get(1).state, Starting)
        assert at.supervisor.counts() == (1, 1)
        at.end(1)
        await at.state(1, Ended)

    recovered(paths, test)


def test_a_job_that_was_stopped_before_it_began_never_starts(paths: Paths) -> None:
    """The stop was promised."""
    make_directory(paths, make_spec(1))
    make_row(paths, 1, Starting(), Stopping(None, Cause.USER))

    async def test(at: Bench) -> None:
        state = at.supervisor.get(1).state
        assert isinstance(state, StartFailed)
        assert (state.cause, state.reason) == (Cause.USER, "stopped before it started")
        assert jobdir.read_exit(paths.job(1)) == state
        await at.heard_nothing()

    recovered(paths, test)


@pytest.mark.parametrize("states", [None, (Running(HANDLE),)], ids=["no row", "running"])
def test_an_end_on_disk_is_indexed(paths: Paths, states: tuple[State, ...] | None) -> None:
    """It ended while no server was there."""
    jobdir.write_exit(make_directory(paths, make_spec(1)), ENDED)
    begin(paths, 1)
    if states is not None:
        make_row(paths, 1, *states)

    async def test(at: Bench) -> None:
        assert at.supervisor.get(1).state == ENDED
        assert at.events()[-1] == "job.ended"
        assert on_disk(paths) == ({"1"}, set())
        await at.heard_nothing()

    recovered(paths, test)


def test_an_indexed_end_is_not_told_twice(paths: Paths) -> None:
    """Crashed between the index and the marker: only the marker goes."""
    jobdir.write_exit(make_directory(paths, make_spec(1)), ENDED)
    make_row(paths, 1, ENDED)

    async def test(at: Bench) -> None:
        assert on_disk(paths) == ({"1"}, set())
        assert at.supervisor.last_seq() == 2
        await at.heard_nothing()

    recovered(paths, test, VIEW)


VIEWS: dict[str, tuple[JobView, State]] = {
    "running": (VIEW, Running(HANDLE)),
    "paused": (JobView(1, "paused", 5, 42, 1000, 41), Paused(HANDLE)),
    "starting": (JobView(1, "starting"), Starting()),
    "stopping": (
        JobView(1, "stopping", 5, 42, 1000, 41, Cause.TIMEOUT),
        Stopping(HANDLE, Cause.TIMEOUT),
    ),
}


@pytest.mark.parametrize("row", VIEWS.values(), ids=VIEWS.keys())
def test_a_job_that_the_warden_minds_is_adopted(paths: Paths, row: tuple[JobView, State]) -> None:
    """It is as its shim says, whatever the index said."""
    view, state = row
    make_directory(paths, make_spec(1))
    make_row(paths, 1, Starting())

    async def test(at: Bench) -> None:
        assert at.supervisor.get(1).state == state
        await at.heard_nothing()
        at.end(1)
        assert await at.state(1, Ended) == ENDED

    recovered(paths, test, view)


def test_an_adoption_that_changes_nothing_is_no_event(paths: Paths) -> None:
    """A restart of the server is nothing that happens to a job."""
    make_directory(paths, make_spec(1))
    make_row(paths, 1, Running(HANDLE))

    async def test(at: Bench) -> None:
        assert at.supervisor.last_seq() == 2
        await at.heard_nothing()

    recovered(paths, test, VIEW)


def test_a_stop_that_got_lost_is_asked_for_again(paths: Paths) -> None:
    """The index promised it and the shim knows nothing of it."""
    make_directory(paths, make_spec(1))
    make_row(paths, 1, Stopping(HANDLE, Cause.USER))

    async def test(at: Bench) -> None:
        assert await at.heard(contract.Stop) == contract.Stop(1, 10.0, Cause.USER)
        assert at.supervisor.get(1).state == Stopping(HANDLE, Cause.USER)

    recovered(paths, test, VIEW)


@pytest.mark.parametrize(
    ("boot_id", "cause"), [("", Cause.UNKNOWN), ("the boot before", Cause.REBOOT)]
)
def test_a_job_that_is_not_there_any_more_is_lost(paths: Paths, boot_id: str, cause: Cause) -> None:
    """With the start that its pidfile knows, and on disk."""
    make_directory(paths, make_spec(1))
    begin(paths, 1, boot_id)
    make_row(paths, 1, Starting())

    async def test(at: Bench) -> None:
        lost = at.supervisor.get(1).state
        assert isinstance(lost, Lost)
        assert (lost.cause, lost.started_at_ns) == (cause, 5)
        assert jobdir.read_exit(paths.job(1)) == lost
        assert at.events()[-2:] == ["job.started", "job.lost"]
        assert on_disk(paths) == ({"1"}, set())

    recovered(paths, test)


@pytest.mark.parametrize("name", ["exit.json", "pid"])
@pytest.mark.parametrize("content", [b"", b'{"version": 1, "sta', b"\xff" * 100])
def test_a_torn_record_makes_the_end_unknown(paths: Paths, name: str, content: bytes) -> None:
    """Lost, with the reason; the torn record is kept."""
    make_directory(paths, make_spec(1))
    begin(paths, 1)
    job_file(paths, 1, name).write_bytes(content)
    make_row(paths, 1, Running(HANDLE))

    async def test(at: Bench) -> None:
        lost = at.supervisor.get(1).state
        assert isinstance(lost, Lost)
        assert lost.cause is Cause.UNKNOWN
        assert jobdir.read_exit(paths.job(1)) == lost
        kept = "exit.json.corrupt-1" if name == "exit.json" else "pid"
        assert job_file(paths, 1, kept).read_bytes() == content

    recovered(paths, test)


def test_a_job_whose_shim_seems_to_live_is_looked_at_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'Cannot tell' is never treated as dead; once the lock is free it is decided."""
    monkeypatch.setattr(recover, "LOOK_AGAIN_S", 0.01)
    make_directory(paths, make_spec(1))
    begin(paths, 1)
    make_row(paths, 1, Running(HANDLE))

    shim = ExitStack()
    shim.enter_context(shim_lock(paths, 1))

    async def test(at: Bench) -> None:
        def runs() -> bool:
            return isinstance(at.supervisor.get(1).state, Running)

        await asyncio.to_thread(holds_for, runs, seconds=0.1)
        shim.close()
        assert isinstance(await at.state(1, Lost), Lost)

    recovered(paths, test)


def test_a_job_that_may_be_starting_is_not_queued(paths: Paths) -> None:
    """As queued it could be stopped behind its shim's back."""
    make_directory(paths, make_spec(1))

    async def test(at: Bench) -> None:
        assert isinstance(at.supervisor.get(1).state, Starting)
        await at.heard_nothing()

    with shim_lock(paths, 1):
        recovered(paths, test)


def test_an_active_row_without_a_marker_is_decided_about(paths: Paths) -> None:
    """A marker that got lost does not leave a job running for ever."""
    directory = make_directory(paths, make_spec(1), live=False)
    jobdir.write_exit(directory, ENDED)
    make_row(paths, 1, Running(HANDLE))

    async def test(at: Bench) -> None:
        assert at.supervisor.get(1).state == ENDED

    recovered(paths, test)


def test_an_active_row_without_a_directory_is_dropped(paths: Paths) -> None:
    """Somebody removed it by hand; its id is not used again."""
    make_row(paths, 5, Starting())

    async def test(at: Bench) -> None:
        with pytest.raises(JobNotFoundError):
            at.supervisor.get(5)
        assert (await at.submit()).spec.id == 6

    recovered(paths, test)


def test_a_power_cut_may_take_row_and_marker_but_not_the_job(paths: Paths) -> None:
    """After a restart of the machine every directory without a row is looked at."""
    make_directory(paths, make_spec(1), live=False)
    begin(paths, 1, "the boot before")
    jobdir.write_exit(make_directory(paths, make_spec(2, key="k2"), live=False), ENDED)
    os.mkdir(paths.job(3))
    make_row(paths, 4, ENDED)
    store = open_store(paths)
    store.connection.execute("DELETE FROM jobs WHERE id <> 4")
    store.set_meta("boot_id", "the boot before")
    store.close()

    async def test(at: Bench) -> None:
        lost = at.supervisor.get(1).state
        assert isinstance(lost, Lost)
        assert lost.cause is Cause.REBOOT
        assert at.supervisor.get(2).state == ENDED
        assert on_disk(paths) == ({"1", "2", "3"}, set())
        await at.heard_nothing()

    recovered(paths, test)


def test_a_torn_spec_leaves_the_job_visible(paths: Paths) -> None:
    """It cannot be launched, but listed and removed."""
    make_directory(paths, make_spec(1))
    job_file(paths, 1, "spec.json").write_bytes(b"{")

    async def test(at: Bench) -> None:
        state = at.supervisor.get(1).state
        assert isinstance(state, StartFailed)
        assert "spec.json" in state.reason
        await at.heard_nothing()
        await at.supervisor.remove(1, "rm")
        assert on_disk(paths) == (set(), set())

    recovered(paths, test)


def test_a_torn_spec_does_not_hide_a_job_that_runs(paths: Paths) -> None:
    """What the warden minds is shown."""
    make_directory(paths, make_spec(1))
    job_file(paths, 1, "spec.json").write_bytes(b"{")

    async def test(at: Bench) -> None:
        assert at.supervisor.get(1).state == Running(HANDLE)

    recovered(paths, test, VIEW)


def test_a_job_whose_directory_is_gone_is_shown_while_it_runs(paths: Paths) -> None:
    """The warden minds it; how it ends cannot be written anywhere."""

    async def test(at: Bench) -> None:
        assert at.supervisor.get(1).state == Running(HANDLE)
        at.tell(contract.JobRecorded(1))
        assert isinstance(await at.state(1, Lost), Lost)

    recovered(paths, test, VIEW)


def test_one_unreadable_job_does_not_keep_the_server_from_starting(paths: Paths) -> None:
    """It is said in the log, looked at again, and the others go on."""
    make_directory(paths, make_spec(1))
    make_directory(paths, make_spec(2))
    record = job_file(paths, 1, "exit.json")
    record.mkdir()

    async def test(at: Bench) -> None:
        assert (await at.heard(contract.Launch)).job_id == 2

    with capture_logs() as logs:
        recovered(paths, test)

    (line,) = [line for line in logs if line["event"] == "job.recovery_failed"]
    assert line["job_id"] == 1


def test_one_unreadable_job_does_not_stop_a_rebuild(paths: Paths) -> None:
    """It comes back as what is known of it; the others as they are."""
    jobdir.write_exit(make_directory(paths, make_spec(1)), ENDED)
    make_directory(paths, make_spec(2), live=False)
    for name in ("spec.json", "exit.json"):
        job_file(paths, 2, name).unlink(missing_ok=True)
        job_file(paths, 2, name).mkdir()
    os.unlink(paths.database)

    store = open_store(paths)

    ended, unreadable = store.get(1), store.get(2)
    assert ended is not None
    assert unreadable is not None
    assert (ended.state, unreadable.state) == (ENDED, Queued())
    store.close()


@pytest.mark.parametrize("where", ["directory", "marker", "row", "last-id"])
def test_no_id_is_used_twice(paths: Paths, where: str) -> None:
    """The next one is above everything that was ever there."""
    if where == "directory":
        os.mkdir(paths.job(41))
    if where == "marker":
        Path(f"{paths.live}/41").touch()
    if where == "row":
        make_row(paths, 41, ENDED)
    if where == "last-id":
        Path(paths.last_id).write_text("41\n", encoding="ascii")

    async def test(at: Bench) -> None:
        assert (await at.submit()).spec.id == 42

    recovered(paths, test)


def test_a_hello_with_ten_thousand_jobs_is_taken_in(paths: Paths) -> None:
    """One line of two megabytes."""
    views = tuple(JobView(job_id, "running", 5, 42, 1000, 41) for job_id in range(10_000))
    hello = contract.Hello(1, 2, views)

    async def take_in() -> contract.Message | None:
        ours, theirs = socket.socketpair()
        link = await open_link(ours.detach())
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(contract.encode(hello) + b"\n")
        message = await link.receive()
        await link.close()
        assert await reader.read() == b""
        with pytest.raises(WardenGoneError):
            link.send(contract.Drain())
        writer.close()
        await writer.wait_closed()
        return message

    assert asyncio.run(take_in()) == hello


def test_a_warden_that_goes_away_before_its_hello_is_an_error(paths: Paths) -> None:
    """There is no server without a warden."""

    async def start() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        await Supervisor.open(paths, ours.detach(), Defaults())

    with pytest.raises(WardenGoneError):
        asyncio.run(start())
