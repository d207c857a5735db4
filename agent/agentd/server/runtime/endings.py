"""The end of a job, from its exit record to the last trace of its being live.

An exit record that stands on disk is read and indexed at once. What takes longer, a record to
be set aside or to be written, goes to a thread, in batches. Nothing is dropped: what cannot be
read or indexed now is tried again, and after a crash the marker in live/ brings it back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from agentd.core.job import Cause, Ended, FinalState, Lost, ProcessId
from agentd.errors import AgentError, DiskFullError, RecordCorruptError
from agentd.paths import Paths
from agentd.server.runtime.board import Board, end_name
from agentd.server.runtime.markers import remove_marker
from agentd.server.runtime.model import JobInfo
from agentd.system import clock, jobdir, process
from agentd.system.crashpoint import reach
from agentd.system.files import system_error

#: Between two tries to read or index an end that the disk refused.
RETRY_S = 2.0
_NS = 1_000_000_000

_log = structlog.get_logger("agentd.endings")


def settle(directory: str, proposed: FinalState | None) -> FinalState:
    """Return the end as it stands on disk; if there is none, make the proposed one stand there.

    A record that cannot be read is set aside. A directory that is gone holds no end: then the
    proposed one is all there is.

    Raises:
        SystemCallError: The disk refuses; to be repeated.
        DiskFullError: The same, for want of room.

    """
    try:
        try:
            found = jobdir.read_exit(directory)
        except RecordCorruptError as error:
            _log.error("job.record_corrupt", directory=directory, error=str(error))
            set_aside(f"{directory}/{jobdir.EXIT}")
            found, proposed = None, proposed or _lost("its exit record was unreadable")
        if found is not None:
            return found
        final = _look_around(directory, proposed or _lost("its exit record has vanished"))
        if os.path.isdir(directory):
            jobdir.write_exit(directory, final)
        return final
    except OSError as error:
        raise system_error(f"read or write the end in {directory}", error) from error


def _lost(reason: str) -> Lost:
    return Lost(clock.wall_ns(), Cause.UNKNOWN, reason)


def _look_around(directory: str, final: FinalState) -> FinalState:
    """Add the processes that a lost job left behind, so that they stay visible."""
    if not isinstance(final, Lost) or final.surviving_pids or final.cause is Cause.REBOOT:
        return final
    try:
        spec = jobdir.read_spec(directory)
    except RecordCorruptError:
        return final
    if spec is None:
        return final
    found = process.find_members(spec.uid, _leader_in(directory))
    return replace(final, surviving_pids=tuple(found))


def _leader_in(directory: str) -> ProcessId | None:
    try:
        record = jobdir.read_pid(directory)
    except RecordCorruptError:
        # Often the very reason why the job is lost; the mark in the environment finds the rest.
        return None
    return record.leader if record is not None and record.boot_id == clock.boot_id() else None


def set_aside(path: str) -> str:
    """Give a file that makes no sense another name, and return it.

    The old name stays until the next record replaces it: at no moment does the job look as if
    it had never ended.
    """
    number = 1
    while os.path.lexists(f"{path}.corrupt-{number}"):
        number += 1
    aside = f"{path}.corrupt-{number}"
    try:
        os.link(path, aside)
    except OSError:
        # A file system without hard links.
        os.rename(path, aside)
    return aside


class Endings:
    """Indexes ends as they come. Belongs to one event loop."""

    def __init__(self, paths: Paths, board: Board) -> None:
        """Nothing waits yet; `run` does the work."""
        self._paths = paths
        self._board = board
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="agentd-endings")
        self._waiting: dict[int, FinalState | None] = {}
        self._busy: frozenset[int] = frozenset()
        self._work = asyncio.Event()
        #: Called with every end once it is indexed; must not wait.
        self.on_end: Callable[[JobInfo], None] = lambda _info: None

    def add(self, job_id: int, proposed: FinalState | None = None) -> None:
        """Take in a job that is over: its exit record counts, else the proposed end."""
        if job_id in self._busy:
            # The same end told twice; what stands on disk is being read.
            return
        if self._waiting.get(job_id) is None:
            self._waiting[job_id] = proposed
        self._work.set()

    @property
    def is_idle(self) -> bool:
        """Whether every end that came in is indexed."""
        return not self._waiting and not self._busy

    async def run(self) -> None:
        """Work until cancelled. Raises StoreCorruptError."""
        while True:
            await self._work.wait()
            await self.work_off()

    async def work_off(self) -> None:
        """Read and index what waits now."""
        self._work.clear()
        batch, self._waiting = self._index_plain(self._waiting), {}
        if not batch:
            return
        self._busy = frozenset(batch)
        try:
            loop = asyncio.get_running_loop()
            ends = await loop.run_in_executor(self._disk, self._settle_all, batch)
            for job_id, end in ends:
                self._index(job_id, end, batch[job_id])
        finally:
            self._busy = frozenset()

    def _index_plain(self, batch: Mapping[int, FinalState | None]) -> dict[int, FinalState | None]:
        """Index every end that stands on disk and return the rest, which takes longer."""
        rest: dict[int, FinalState | None] = {}
        for job_id, proposed in batch.items():
            end = self._read(job_id)
            if end is None:
                rest[job_id] = proposed
            else:
                self._index(job_id, end, proposed)
        return rest

    def _read(self, job_id: int) -> FinalState | None:
        # A few hundred bytes that were written a moment ago: a thread for them costs more.
        try:
            return jobdir.read_exit(self._paths.job(job_id))
        except (RecordCorruptError, OSError):
            return None

    def _settle_all(
        self, batch: Mapping[int, FinalState | None]
    ) -> list[tuple[int, FinalState | AgentError]]:
        return [(job_id, self._settle(job_id, end)) for job_id, end in batch.items()]

    def _settle(self, job_id: int, proposed: FinalState | None) -> FinalState | AgentError:
        try:
            return settle(self._paths.job(job_id), proposed)
        except AgentError as error:
            return error

    def _index(
        self, job_id: int, end: FinalState | AgentError, proposed: FinalState | None
    ) -> None:
        if isinstance(end, AgentError):
            self._retry(job_id, proposed, end)
            return
        try:
            shown = self._board.finish(job_id, end)
        except DiskFullError as error:
            self._retry(job_id, end, error)
            return
        reach("server.end.indexed")
        remove_marker(self._paths, job_id)
        reach("server.end.live_removed")
        if shown is not None:
            log_end(job_id, end)
            self.on_end(shown)

    def _retry(self, job_id: int, proposed: FinalState | None, error: AgentError) -> None:
        _log.error("job.end_not_indexed", job_id=job_id, error=str(error), retry_s=RETRY_S)
        asyncio.get_running_loop().call_later(RETRY_S, self.add, job_id, proposed)

    def close(self) -> None:
        """Let go of the thread."""
        self._disk.shutdown(wait=True)


def log_end(job_id: int, final: FinalState) -> None:
    """Write the one line that every end gets."""
    fields: dict[str, object] = {"job_id": job_id, "cause": final.cause.value}
    if isinstance(final, Ended):
        fields["exit_code"] = final.status.exit_code
        fields["signal"] = final.status.signal_number
        fields["duration_s"] = None if final.duration_ns is None else final.duration_ns / _NS
    _log.info("job.ended", state=end_name(final).removeprefix("job."), **fields)
