"""Submitting a job again that the guard has ended, if its owner asked for that.

What is owed stands in the index (`requeues_owed`), written with the end itself, and follows from
the files when the index is made anew. A requeue is a submit like any other, of the predecessor's
spec under a key made of the predecessor's id and uid. The order: submit, `requeue.json` in the
predecessor's directory, index. After a crash between any two, the same is done again and finds
what was done by the key. One requeue at a time, and some seconds between two, so that the memory
the last one takes can be seen before the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from agentd.core.describe import is_final
from agentd.core.job import JobSpec
from agentd.errors import (
    AgentError,
    InvalidSpecError,
    JobNotFoundError,
    RecordCorruptError,
    StoreCorruptError,
)
from agentd.paths import Paths
from agentd.server.runtime import requeuefile
from agentd.server.runtime.board import Board
from agentd.server.runtime.model import JobDraft, JobInfo, Remarks
from agentd.server.runtime.requeuefile import Settlement
from agentd.server.runtime.store import Store
from agentd.system import clock, jobdir
from agentd.system.crashpoint import reach
from agentd.system.files import system_error

#: Before the first requeue; doubled with each further one.
FIRST_BACKOFF_S = 10.0
LONGEST_BACKOFF_S = 600.0
#: How long it waits for memory beyond that; then it goes.
LONGEST_MEMORY_WAIT_S = 600.0
#: Between two looks at the host's memory.
LOOK_S = 5.0
#: Between two requeues.
SPACING_S = 10.0
#: Until a requeue that the disk or the kernel refused is tried again.
RETRY_S = 30.0
_NS = 1_000_000_000

_log = structlog.get_logger("agentd.requeue")


def backoff_s(requeue_count: int) -> float:
    """Return how long a job waits that comes from that many requeues. Pure."""
    return float(min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(requeue_count, 16)))


def draft_again(spec: JobSpec) -> JobDraft:
    """Return the submit of a job's successor: the same, under a key of its own. Pure."""
    return JobDraft(
        idempotency_key=f"requeue of job {spec.id} {spec.uid}",
        argv=spec.argv,
        cwd=spec.cwd,
        environment=spec.environment,
        name=spec.name,
        labels=spec.labels,
        timeout_s=spec.timeout_s,
        grace_s=spec.grace_s,
        output=spec.output,
        stdin_path=spec.stdin_path,
        umask=spec.umask,
        mem_limit_bytes=spec.mem_limit_bytes,
        mem_action=None if spec.mem_limit_bytes is None else spec.mem_action,
        preemptible=spec.preemptible,
        requeue_limit=spec.requeue_limit,
        requeue_count=spec.requeue_count + 1,
        requeue_of=spec.id,
        log_retention_bytes=spec.log_retention_bytes,
        log_segment_bytes=spec.log_segment_bytes,
        resource_limits=spec.resource_limits,
    )


class Requeues:
    """The requeues that are owed. Belongs to one event loop."""

    def __init__(
        self,
        paths: Paths,
        store: Store,
        board: Board,
        submit: Callable[[JobDraft], Awaitable[JobInfo]],
        is_memory_back: Callable[[], Awaitable[bool]],
    ) -> None:
        """`is_memory_back` says whether the host has more available than its warn mark."""
        self._paths = paths
        self._store = store
        self._board = board
        self._submit = submit
        self._is_memory_back = is_memory_back
        #: When each may be tried, by the monotonic clock.
        self._due_s: dict[int, float] = {}
        self._busy: int | None = None
        self._wake = asyncio.Event()

    def take_up(self) -> None:
        """Take in what the index says is owed. A restart begins each back-off anew."""
        for job_id in self._store.requeues_owed():
            info = self._board.find(job_id)
            if info is not None and job_id not in self._due_s:
                self._put(job_id, backoff_s(info.spec.requeue_count))

    def add(self, info: JobInfo) -> None:
        """Take in a job that has just ended, if it is owed."""
        spec, state = info.spec, info.state
        if not is_final(state) or not spec.owes_requeue(state) or spec.id in self._due_s:
            return
        delay_s = backoff_s(spec.requeue_count)
        self._put(spec.id, delay_s)
        _log.info("job.requeue_waiting", job_id=spec.id, delay_s=delay_s)
        detail = f"in {delay_s:g} s, once the host has memory; stop cancels it"
        self._board.note(spec.id, "job.requeue_waiting", detail, clock.wall_ns())

    def _put(self, job_id: int, delay_s: float) -> None:
        self._due_s[job_id] = time.monotonic() + delay_s
        self._wake.set()

    def due_at_ns(self, job_id: int) -> int | None:
        """Return when the job's requeue may be tried, by the wall clock; None: none waits."""
        due_s = self._due_s.get(job_id)
        if due_s is None:
            return None
        at_s = clock.wall_ns() / _NS + due_s - time.monotonic()
        # Two looks at two clocks: asked twice it is the same moment.
        return round(at_s * 10) * (_NS // 10)

    def remarks(self, info: JobInfo) -> Remarks:
        """Return what became of the requeue that a job is owed, as far as it is not a job yet."""
        spec, state = info.spec, info.state
        if not is_final(state) or spec.requeued_as is not None or not spec.owes_requeue(state):
            return Remarks()
        due_at_ns = self.due_at_ns(spec.id)
        if due_at_ns is not None:
            return Remarks(requeue_at_ns=due_at_ns)
        last = self._store.last_of(spec.id, ("job.requeue_cancelled",))
        return Remarks(requeue_cancelled="" if last is None else last[1])

    def hold(self, job_id: int) -> float | None:
        """Take the job out of the line and return its place, for `restore`; None: not in it."""
        return None if job_id == self._busy else self._due_s.pop(job_id, None)

    def restore(self, job_id: int, place: float | None) -> None:
        """Put it back: what it was held for did not happen."""
        if place is not None:
            self._due_s[job_id] = place
            self._wake.set()

    async def cancel(self, job_id: int, reason: str) -> JobInfo | None:
        """Never requeue this job; return it, or None if it was not owed a requeue.

        Raises:
            SystemCallError: The disk refuses; the requeue is still owed.
            DiskFullError: The same, for want of room.

        """
        place = self.hold(job_id)
        if place is None:
            return None
        try:
            return await self._settle(job_id, Settlement(None, reason))
        except AgentError:
            self.restore(job_id, place)
            raise

    async def run(self) -> None:
        """Requeue what is due, one at a time, until cancelled. Raises StoreCorruptError."""
        while True:
            job_id = await self._next_due()
            if not await self._wait_for_memory(job_id):
                continue
            self._busy = job_id
            try:
                await self._requeue(job_id)
                self._due_s.pop(job_id, None)
            except StoreCorruptError:
                raise
            except AgentError as error:
                self._postpone(job_id, error)
            finally:
                self._busy = None
            await asyncio.sleep(SPACING_S)

    async def _next_due(self) -> int:
        while True:
            self._wake.clear()
            first = min(self._due_s, key=self._due_s.__getitem__, default=None)
            wait_s = None if first is None else self._due_s[first] - time.monotonic()
            if first is not None and wait_s is not None and wait_s <= 0:
                return first
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _wait_for_memory(self, job_id: int) -> bool:
        """Return once there is room, or the time for that is over; False: no longer wanted."""
        deadline_s = self._due_s[job_id] + LONGEST_MEMORY_WAIT_S
        while not await self._is_memory_back():
            if job_id not in self._due_s:
                return False
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(LOOK_S, left_s))
        return job_id in self._due_s

    def _postpone(self, job_id: int, error: AgentError) -> None:
        if self._board.find(job_id) is None:
            # Removed meanwhile, with its directory.
            self._due_s.pop(job_id, None)
            return
        _log.error("requeue.postponed", job_id=job_id, error=str(error), retry_s=RETRY_S)
        self._put(job_id, RETRY_S)

    async def _requeue(self, job_id: int) -> None:
        directory = self._paths.job(job_id)
        settlement = await asyncio.to_thread(requeuefile.read, directory)
        if settlement is None:
            settlement = await self._submit_again(job_id)
        reach("server.requeue.submitted")
        await self._settle(job_id, settlement)

    async def _submit_again(self, job_id: int) -> Settlement:
        if self._store.last_of(job_id, ("job.stop_requested",)) is not None:
            # While the guard ended it the user wanted it gone as well.
            return Settlement(None, "the user had stopped it too")
        try:
            spec = await asyncio.to_thread(jobdir.read_spec, self._paths.job(job_id))
        except RecordCorruptError as error:
            return Settlement(None, str(error))
        except OSError as error:
            # A file system that hangs or is away: to be tried again.
            raise system_error(f"read the spec of job {job_id}", error) from error
        if spec is None:
            return Settlement(None, "its spec.json is gone")
        try:
            successor = await self._submit(draft_again(replace(spec, id=job_id)))
        except InvalidSpecError as error:
            return Settlement(None, f"it cannot be started again: {error}")
        except JobNotFoundError:
            return Settlement(None, "it was requeued before, and that job was removed")
        return Settlement(successor.spec.id)

    async def _settle(self, job_id: int, settlement: Settlement) -> JobInfo:
        await asyncio.to_thread(requeuefile.write, self._paths.job(job_id), settlement)
        reach("server.requeue.noted")
        info = self._board.get(job_id)
        spec = replace(info.spec, requeued_as=settlement.requeued_as)
        if settlement.requeued_as is None:
            kind, detail = "job.requeue_cancelled", settlement.reason
        else:
            nth = f"{spec.requeue_count + 1} of {spec.requeue_limit}"
            kind, detail = "job.requeued", f"as job {settlement.requeued_as} ({nth})"
        _log.info(kind, job_id=job_id, detail=detail)
        return self._board.settle_requeue(spec, info.state, kind, detail)
