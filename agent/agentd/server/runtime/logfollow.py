"""Sends a job's output from any offset and follows it until the job is over.

Pull, never push: nothing is read before the consumer asks for the next item, so a stalled
client costs one open file. Between items a follower sleeps until inotify reports a write or
the job's state changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from agentd.core.job import Ended, FileOutput, Lost, StartFailed
from agentd.errors import InvalidSpecError, JobNotFoundError, WrongStateError
from agentd.paths import Paths
from agentd.server.runtime.events import Change
from agentd.server.runtime.filewatch import FileWatches, Interest
from agentd.server.runtime.logs import (
    AtEnd,
    Chunk,
    Gap,
    Log,
    TimeIndex,
    open_log,
    stream_name,
)
from agentd.server.runtime.model import JobInfo

#: A look without a reason: the kernel drops events when its queue is full (inotify(7)), a
#: user's own file may be moved, and a network file system reports no writes of other hosts.
_SAFETY_LOOK_S = 5.0
#: Between looks where there is no watch.
_UNWATCHED_LOOK_S = 0.2
#: Time entries in one chunk; at ten a second more would need seven minutes of output in it.
_MAX_TIMES = 4096
_MAX_OFFSET = 1 << 62

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FromOffset:
    """Begin at this byte."""

    offset: int = 0


@dataclass(frozen=True, slots=True)
class FromTail:
    """Begin with the last so many lines."""

    lines: int


@dataclass(frozen=True, slots=True)
class FromTime:
    """Begin with what was written at this time, nanoseconds since the epoch, or later."""

    wall_ns: int


Start = FromOffset | FromTail | FromTime


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What of which log is wanted."""

    job_id: int
    stderr: bool = False
    start: Start = FromOffset()
    follow: bool = False
    with_times: bool = False


@dataclass(frozen=True, slots=True)
class TimedChunk:
    """Bytes, and (offset, nanoseconds since the epoch) pairs if they were asked for."""

    chunk: Chunk
    times: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Fin:
    """The explicit end. `job_over`: nothing will follow."""

    next_offset: int
    job_over: bool


LogItem = TimedChunk | Gap | Fin


class Jobs(Protocol):
    """What a follower needs of the supervisor."""

    def get(self, job_id: int) -> JobInfo:
        """Return the job. Raises JobNotFoundError."""

    def changed(self, job_id: int | None = None) -> Change:
        """Return the job's next change."""


@dataclass(slots=True)
class _Reading:
    """One caller's place in one log."""

    job: JobInfo
    log: Log
    times: TimeIndex | None
    offset: int = 0

    def drain(self, limit: int | None = None) -> Iterator[LogItem]:
        """Yield what stands there, up to the end or to `limit`; `offset` moves along."""
        while limit is None or self.offset < limit:
            item = self.log.read(self.offset)
            if isinstance(item, AtEnd):
                return
            self.offset = item.end
            yield self._timed(item) if isinstance(item, Chunk) else item

    def _timed(self, chunk: Chunk) -> TimedChunk:
        if self.times is None:
            return TimedChunk(chunk, ())
        return TimedChunk(chunk, tuple(self.times.between(chunk.offset, chunk.end, _MAX_TIMES)))


class LogService:
    """Reads and follows the logs of all jobs."""

    def __init__(self, paths: Paths, jobs: Jobs, watches: FileWatches) -> None:
        """Keeps nothing open between calls."""
        self._paths = paths
        self._jobs = jobs
        self._watches = watches
        self._said_unwatched = False

    async def read(self, request: LogRequest) -> AsyncGenerator[LogItem, None]:
        """Yield chunks and gaps from the start asked for, then one `Fin`.

        Raises:
            JobNotFoundError: There is no such job, or it was removed meanwhile.
            WrongStateError: This output is not kept, or is gone.
            InvalidSpecError: The start makes no sense.

        """
        job = self._jobs.get(request.job_id)
        with self._open(job, request) as reading:
            if request.follow and not _is_over(job):
                async with aclosing(self._follow(reading)) as items:
                    async for item in items:
                        yield item
                return
            # A job may write faster than the client reads: what stands there now is the answer.
            limit = reading.log.end()
            for item in reading.drain(limit):
                yield item
            yield Fin(reading.offset, job_over=_is_over(job))

    async def _follow(self, reading: _Reading) -> AsyncGenerator[LogItem, None]:
        wake = asyncio.Event()
        async with self._woken(reading, wake) as longest_s:
            while True:
                # Before the reading: what happens during it ends the next wait.
                wake.clear()
                over = _is_over(self._jobs.get(reading.job.spec.id))
                for item in reading.drain():
                    yield item
                if over:
                    yield Fin(reading.offset, job_over=True)
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(longest_s):
                        await wake.wait()

    @contextmanager
    def _open(self, job: JobInfo, request: LogRequest) -> Iterator[_Reading]:
        directory = self._paths.job(job.spec.id)
        stream = stream_name(job.spec.output, stderr=request.stderr)
        times = _open_times(directory, job, stream, request)
        log = open_log(directory, job.spec.output, stream, must_exist=_is_over(job))
        reading = _Reading(job, log, times if request.with_times else None)
        try:
            reading.offset = _begin(log, times, request.start)
            yield reading
        finally:
            log.close()
            if times is not None:
                times.close()

    @asynccontextmanager
    async def _woken(self, reading: _Reading, wake: asyncio.Event) -> AsyncIterator[float]:
        """Set `wake` at writes and at the job's changes; yields how long to wait at most."""
        directory = reading.log.directory
        waker = asyncio.create_task(self._wake_at_changes(reading.job.spec.id, wake))
        set_wake: Callable[[], None] = wake.set
        longest_s = _SAFETY_LOOK_S if self._watch(directory, set_wake) else _UNWATCHED_LOOK_S
        try:
            yield longest_s
        finally:
            self._watches.remove(directory, Interest.CONTENT, set_wake)
            waker.cancel()

    def _watch(self, directory: str, callback: Callable[[], None]) -> bool:
        try:
            self._watches.add(directory, Interest.CONTENT, callback)
        except OSError as error:
            if not self._said_unwatched:
                self._said_unwatched = True
                _log.warning("log.unwatched", error=str(error), look_every_s=_UNWATCHED_LOOK_S)
            return False
        return True

    async def _wake_at_changes(self, job_id: int, wake: asyncio.Event) -> None:
        while True:
            change = self._jobs.changed(job_id)
            try:
                over = _is_over(self._jobs.get(job_id))
            except JobNotFoundError:
                over = True
            if over:
                wake.set()
                return
            await change.wait()
            wake.set()


def _is_over(job: JobInfo) -> bool:
    return isinstance(job.state, Ended | StartFailed | Lost)


def _open_times(directory: str, job: JobInfo, stream: str, request: LogRequest) -> TimeIndex | None:
    if not (request.with_times or isinstance(request.start, FromTime)):
        return None
    if isinstance(job.spec.output, FileOutput):
        raise WrongStateError("output that goes to your own files has no times; see submit --help")
    return TimeIndex(directory, stream)


def _begin(log: Log, times: TimeIndex | None, start: Start) -> int:
    match start:
        case FromOffset(offset):
            if offset > _MAX_OFFSET:
                raise InvalidSpecError(f"offset: {offset} is beyond any log")
            return offset
        case FromTail(lines):
            return log.tail(lines)
        case FromTime(wall_ns):
            found = None if times is None else times.offset_at(wall_ns)
            return log.end() if found is None else found
