"""Accepting jobs: marker, directory, row, launch, answer; each once for each key.

A submit runs in a task of its own, which several callers with one key share and which goes on
when they go away: a client that is gone must not leave half a job.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from agentd.core import lifecycle
from agentd.core.job import JobSpec, Queued
from agentd.errors import AgentError, DrainingError, WardenGoneError
from agentd.paths import Paths
from agentd.server.runtime.board import Board
from agentd.server.runtime.making import make_job, unmake_job
from agentd.server.runtime.model import Defaults, JobDraft, JobInfo
from agentd.server.runtime.store import Note, Store
from agentd.system.crashpoint import reach

#: Each waits in fsync(2); the file system commits what comes together as one.
_DISK_THREADS = 8

_log = structlog.get_logger("agentd.submits")


class Submits:
    """The submits under way. Belongs to one event loop."""

    def __init__(
        self,
        paths: Paths,
        store: Store,
        board: Board,
        perform: Callable[[int, Sequence[lifecycle.Command]], None],
        defaults: Defaults,
    ) -> None:
        """`perform` carries out the lifecycle's commands."""
        self.defaults = defaults
        self.is_closing = False
        self._paths = paths
        self._store = store
        self._board = board
        self._perform = perform
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="agentd-submit")
        self._ids = itertools.count(1)
        self._highest_id = 0
        self._under_way: dict[str, asyncio.Task[JobInfo]] = {}

    @property
    def highest_id(self) -> int:
        """The highest id a job was ever given."""
        return self._highest_id

    def continue_after(self, highest_id: int) -> None:
        """Give the next job the id after this one."""
        self._ids = itertools.count(highest_id + 1)
        self._highest_id = highest_id

    async def submit(self, draft: JobDraft) -> JobInfo:
        """Accept a job and have it launched, or return what was accepted under its key.

        Raises:
            InvalidSpecError: The draft is wrong; the message names the field.
            DiskFullError: There is no room; nothing is left of it.
            SystemCallError: The kernel refuses; the same.
            DrainingError: The server is ending.

        """
        key = draft.idempotency_key
        task = self._under_way.get(key) if key else None
        if task is None:
            known = self._store.find_submit(key)
            if known is not None:
                return self._board.get(known)
            if self.is_closing:
                raise DrainingError("the agent is being restarted; try again")
            task = self._begin(draft)
        return await asyncio.shield(task)

    def _begin(self, draft: JobDraft) -> asyncio.Task[JobInfo]:
        task = asyncio.create_task(self._submit(draft))
        # A NUL byte: no client's key may hold one.
        token = draft.idempotency_key or f"{id(task)}\0"
        self._under_way[token] = task

        def forget(done: asyncio.Task[JobInfo]) -> None:
            del self._under_way[token]
            if not done.cancelled():
                # Marks it as seen: the client that asked may be gone.
                done.exception()

        task.add_done_callback(forget)
        return task

    def _next_id(self) -> int:
        # Called from several threads: next() of a count is one step under the interpreter lock.
        return next(self._ids)

    async def _submit(self, draft: JobDraft) -> JobInfo:
        reach("server.submit.begin")
        loop = asyncio.get_running_loop()
        spec = await loop.run_in_executor(
            self._disk, make_job, self._paths, draft, self.defaults, self._next_id
        )
        reach("server.submit.dir_made")
        self._highest_id = max(self._highest_id, spec.id)
        try:
            info, commands = self._admit(spec)
        except AgentError:
            await loop.run_in_executor(self._disk, unmake_job, self._paths, spec.id)
            raise
        reach("server.submit.indexed")
        try:
            self._perform(spec.id, commands)
        except WardenGoneError:
            # The job is on record; the next server has it launched.
            _log.warning("job.launch_postponed", job_id=spec.id)
        reach("server.submit.launched")
        return info

    def _admit(self, spec: JobSpec) -> tuple[JobInfo, Sequence[lifecycle.Command]]:
        """Index the job. There is no queue yet: its turn comes at once."""
        queued = Queued()
        state, commands = lifecycle.step(queued, lifecycle.LaunchRequested())
        at_ns = spec.submitted_at_ns
        notes = [Note(at_ns, "job.submitted", queued), Note(at_ns, "job.launched", state)]
        return self._board.add(spec, notes), commands

    async def close(self, timeout_s: float) -> None:
        """Take no more, and wait for those under way."""
        self.is_closing = True
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=timeout_s)
        for task in list(self._under_way.values()):
            task.cancel()
        self._disk.shutdown(wait=False, cancel_futures=True)
