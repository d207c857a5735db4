"""Following a job's output."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FileOutput,
    LeaderHandle,
    MergedOutput,
    Output,
    ProcessId,
    ResourceUsage,
    Running,
    State,
)
from agentd.errors import InvalidSpecError, JobNotFoundError
from agentd.paths import Paths
from agentd.server.runtime.events import Broadcast, Change
from agentd.server.runtime.filewatch import FileWatches
from agentd.server.runtime.logfollow import (
    Fin,
    FromOffset,
    FromTail,
    FromTime,
    LogItem,
    LogRequest,
    LogService,
    TimedChunk,
)
from agentd.server.runtime.logs import AtEnd, Chunk, Gap, SegmentLog
from agentd.server.runtime.model import JobInfo, JobSummary
from agentd.system import logdir
from tests.helpers.logfiles import begin, segment, time_index

RUNNING = Running(LeaderHandle(0, ProcessId(1, 1), 1))
ENDED = Ended(0, 1, 1, ExitStatus(0), Cause.SELF, ResourceUsage())
S = 1_000_000_000


@dataclass
class OneJob:
    """As much of a supervisor as a log needs: job 1, changed by the test."""

    info: JobInfo
    broadcast: Broadcast = field(default_factory=Broadcast)
    removed: bool = False

    def get(self, job_id: int) -> JobInfo:
        """Return job 1."""
        if job_id != self.info.spec.id or self.removed:
            raise JobNotFoundError(f"no job {job_id}")
        return self.info

    def changed(self, job_id: int | None = None) -> Change:
        """Return its next change."""
        return self.broadcast.changed(job_id)

    def become(self, state: State) -> None:
        """Change the state and tell."""
        self.info = replace(self.info, state=state)
        self.broadcast.announce(self.info.spec.id)


@dataclass
class Setting:
    """A job directory, the job in it and the service that reads it."""

    directory: Path
    job: OneJob
    service: LogService
    watches: FileWatches

    async def read(self, request: LogRequest) -> list[LogItem]:
        """Return everything up to the fin."""
        async with asyncio.timeout(10):
            return [item async for item in self.service.read(request)]


@asynccontextmanager
async def setting(root: Path, state: State, output: Output | None = None) -> AsyncIterator[Setting]:
    """Yield job 1 in this state; its end proves that no watch is left."""
    paths = Paths(str(root), str(root / "run"), str(root / "config.toml"))
    directory = Path(paths.job(1))
    os.makedirs(directory)
    summary = JobSummary(1, "", ("true",), "/", {}, 0, None, output or MergedOutput())
    job = OneJob(JobInfo(summary, state, 1))
    watches = FileWatches()
    try:
        yield Setting(directory, job, LogService(paths, job, watches), watches)
    finally:
        assert not watches._watched, "a follower left its watch behind"
        watches.close()


def bytes_of(items: list[LogItem]) -> bytes:
    """Return the data of all chunks."""
    return b"".join(item.chunk.data for item in items if isinstance(item, TimedChunk))


def test_a_read_ends_with_an_explicit_fin(tmp_path: Path) -> None:
    """It says where to go on and whether the job is over."""

    async def scenario() -> None:
        async with setting(tmp_path, RUNNING) as at:
            assert await at.read(LogRequest(1)) == [Fin(0, job_over=False)]
            segment(at.directory, 0, b"hello")
            at.job.become(ENDED)
            items = await at.read(LogRequest(1, start=FromOffset(2)))
            assert items == [TimedChunk(Chunk(2, b"llo"), ()), Fin(5, job_over=True)]

    asyncio.run(scenario())


def test_a_start_can_be_a_line_or_a_time(tmp_path: Path) -> None:
    """And the times come along when they are asked for."""

    async def scenario() -> None:
        async with setting(tmp_path, ENDED) as at:
            segment(at.directory, 0, b"one\ntwo\n")
            time_index(at.directory, (0, 10 * S), (4, 20 * S))
            assert bytes_of(await at.read(LogRequest(1, start=FromTail(1)))) == b"two\n"
            since = LogRequest(1, start=FromTime(15 * S), with_times=True)
            assert (await at.read(since))[0] == TimedChunk(Chunk(4, b"two\n"), ((4, 20 * S),))
            assert await at.read(LogRequest(1, start=FromTime(99 * S))) == [Fin(8, job_over=True)]
            with pytest.raises(InvalidSpecError, match="offset"):
                await at.read(LogRequest(1, start=FromOffset(1 << 63)))

    asyncio.run(scenario())


def test_a_read_without_follow_ends_although_the_job_writes_on(tmp_path: Path) -> None:
    """What stood there when it was asked for is the answer."""

    async def scenario() -> None:
        async with setting(tmp_path, RUNNING) as at:
            path = segment(at.directory, 0, b"x" * (600 << 10))
            got = 0
            async with aclosing(at.service.read(LogRequest(1))) as items:
                async for item in items:
                    with path.open("ab") as file:
                        file.write(b"y" * (512 << 10))
                    got += len(item.chunk.data) if isinstance(item, TimedChunk) else 0
            assert 600 << 10 <= got < 1024 << 10

    asyncio.run(scenario())


def follow_while(
    tmp_path: Path, act: Callable[[Setting], object], output: Output | None = None
) -> list[LogItem]:
    """Follow job 1 while `act` runs in a thread of its own; it must end the job."""

    async def scenario() -> list[LogItem]:
        async with setting(tmp_path, RUNNING, output) as at:
            loop = asyncio.get_running_loop()

            def act_and_end() -> None:
                act(at)
                loop.call_soon_threadsafe(at.job.become, ENDED)

            acting = asyncio.create_task(asyncio.to_thread(act_and_end))
            items = await at.read(LogRequest(1, follow=True))
            await acting
            return items

    return asyncio.run(scenario())


def test_following_ten_rotations_yields_every_byte(tmp_path: Path) -> None:
    """The job writes and rotates while it is read; retention drops what was read."""
    pieces = [bytes([65 + n]) * 100_003 for n in range(11)]

    def write(at: Setting) -> None:
        offset = 0
        for piece in pieces:
            path = at.directory / logdir.segment_name("out", offset)
            with path.open("wb", buffering=0) as file:
                for begin_at in range(0, len(piece), 9_999):
                    file.write(piece[begin_at : begin_at + 9_999])
            offset += len(piece)

    items = follow_while(tmp_path, write)
    assert bytes_of(items) == b"".join(pieces)
    assert items[-1] == Fin(sum(map(len, pieces)), job_over=True)


def test_following_ends_once_the_job_is_over_and_everything_was_sent(tmp_path: Path) -> None:
    """Bytes written just before the end come before the fin."""

    def write(at: Setting) -> None:
        segment(at.directory, 0, b"last words")

    items = follow_while(tmp_path, write)
    assert bytes_of(items) == b"last words"
    assert items[-1] == Fin(10, job_over=True)


def test_following_a_users_file_waits_for_the_job_to_begin(tmp_path: Path) -> None:
    """The file is made after the pidfile, by the leader."""
    out = tmp_path / "mine.log"

    def write(at: Setting) -> None:
        begin(at.directory)
        out.write_bytes(b"one\n")
        with out.open("ab") as file:
            file.write(b"two\n")

    items = follow_while(tmp_path, write, FileOutput(str(out), None, append=False))
    assert bytes_of(items) == b"one\ntwo\n"


def test_a_write_wakes_a_follower_within_milliseconds(tmp_path: Path) -> None:
    """By inotify: far sooner than any polling would, and renames beside it delay nothing."""

    async def scenario() -> list[float]:
        async with setting(tmp_path, RUNNING) as at:
            path = segment(at.directory, 0, b"")
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            latencies_s: list[float] = []
            written_s = 0.0

            def write() -> None:
                nonlocal written_s
                (at.directory / "exit.json.new").touch()
                (at.directory / "exit.json.new").rename(at.directory / "stop.json")
                written_s = time.perf_counter()
                os.write(descriptor, b"x")

            loop = asyncio.get_running_loop()
            loop.call_later(0.05, write)
            async with aclosing(at.service.read(LogRequest(1, follow=True))) as items:
                async for _ in items:
                    latencies_s.append(time.perf_counter() - written_s)
                    if len(latencies_s) == 21:
                        break
                    loop.call_later(0.005, write)
            os.close(descriptor)
            return sorted(latencies_s)

    latencies_s = asyncio.run(scenario())
    assert latencies_s[10] < 0.02, f"median {latencies_s[10] * 1000:.1f} ms"


def test_without_inotify_a_follower_looks_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of watches (ENOSPC) it goes on, and the log says so once."""

    def refuse(*_arguments: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(FileWatches, "add", refuse)

    def write(at: Setting) -> None:
        segment(at.directory, 0, b"still read")

    with capture_logs() as lines:
        items = follow_while(tmp_path, write)
    assert bytes_of(items) == b"still read"
    assert [line["event"] for line in lines] == ["log.unwatched"]


def test_a_stalled_reader_makes_nothing_be_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pull, never push: while the consumer holds one chunk, no other is read."""
    read, offsets = SegmentLog.read, []

    def note(log: SegmentLog, offset: int) -> Chunk | Gap | AtEnd:
        offsets.append(offset)
        return read(log, offset)

    monkeypatch.setattr(SegmentLog, "read", note)

    async def scenario() -> None:
        async with setting(tmp_path, RUNNING) as at:
            segment(at.directory, 0, b"x" * (1 << 20))
            async with aclosing(at.service.read(LogRequest(1, follow=True))) as items:
                first = await anext(items)
                assert isinstance(first, TimedChunk)
                assert len(first.chunk.data) == 256 << 10
                await asyncio.sleep(0)
                assert offsets == [0]

    asyncio.run(scenario())


def test_followers_of_one_job_share_a_watch_and_leave_none(tmp_path: Path) -> None:
    """However many follow; `setting` proves that none stays."""

    async def scenario() -> None:
        async with setting(tmp_path, RUNNING) as at:
            segment(at.directory, 0, b"x")
            streams = [at.service.read(LogRequest(1, follow=True)) for _ in range(5)]
            for stream in streams:
                await anext(stream)
            assert len(at.watches._watched) == 1
            for stream in streams:
                await stream.aclose()

    asyncio.run(scenario())


def test_a_job_removed_while_it_is_followed_ends_the_stream(tmp_path: Path) -> None:
    """With an error of its own: it is neither over nor cut."""

    async def scenario() -> None:
        async with setting(tmp_path, RUNNING) as at:

            def remove() -> None:
                at.job.removed = True
                at.job.broadcast.announce(1)

            asyncio.get_running_loop().call_later(0.02, remove)
            with pytest.raises(JobNotFoundError):
                await at.read(LogRequest(1, follow=True))

    asyncio.run(scenario())
