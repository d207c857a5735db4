"""Removing a job that is over, in steps that a crash may part anywhere.

1. ``last-id`` durable, if no higher id would remain: ids are never used twice.
2. ``jobs/<id>`` becomes ``jobs/.rm-<id>``: from here on the removal is decided.
3. What is in it goes, so that a full disk gets its room back before the index needs any.
4. The row goes.
5. The empty ``jobs/.rm-<id>`` goes.

Whoever finds a ``.rm-<id>`` goes on with step 3 (`sweep`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable

from agentd.core.describe import describe, is_final
from agentd.errors import DiskFullError, DrainingError, WrongStateError
from agentd.paths import Paths
from agentd.server.runtime.board import Board
from agentd.server.runtime.store import Store
from agentd.system.crashpoint import reach
from agentd.system.files import fsync_directory, system_error, write_durable

_PREFIX = ".rm-"


def read_last_id(paths: Paths) -> int:
    """Return the content of last-id; 0 if there is none, or none that makes sense."""
    try:
        with open(paths.last_id, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        return 0


def keep_id(paths: Paths, job_id: int, highest_id: int) -> None:
    """Do step 1, one job at a time.

    Raises:
        SystemCallError: The kernel refuses; the call may be repeated.
        DiskFullError: There is no room for it.

    """
    if read_last_id(paths) >= job_id:
        return
    try:
        write_durable(paths.last_id, f"{highest_id}\n".encode())
    except OSError as error:
        raise system_error(f"write {paths.last_id}", error) from error
    reach("server.remove.id_kept")


def make_room(paths: Paths, job_id: int) -> None:
    """Remove the job's logs before all else: on a full disk there is no room for ``last-id``.

    Raises:
        SystemCallError: The kernel refuses.

    """
    directory = paths.job(job_id)
    try:
        for name in os.listdir(directory):
            if name.endswith(".log"):
                os.unlink(f"{directory}/{name}")
    except OSError as error:
        raise system_error(f"remove the logs of job {job_id}", error) from error


def begin(paths: Paths, job_id: int) -> None:
    """Do steps 2 and 3.

    Raises:
        SystemCallError: The kernel refuses; the call may be repeated.

    """
    doomed = f"{paths.jobs}/{_PREFIX}{job_id}"
    try:
        try:
            os.rename(paths.job(job_id), doomed)
        except FileNotFoundError:
            # Removed by hand, or renamed by a try before this one.
            os.makedirs(doomed, mode=0o700, exist_ok=True)
        fsync_directory(paths.jobs)
        reach("server.remove.renamed")
        _empty(doomed)
    except OSError as error:
        raise system_error(f"remove the directory of job {job_id}", error) from error


def _empty(directory: str) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def complete(paths: Paths, job_id: int) -> None:
    """Do step 5. Raises SystemCallError."""
    doomed = f"{paths.jobs}/{_PREFIX}{job_id}"
    try:
        shutil.rmtree(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise system_error(f"remove {doomed}", error) from error


def unfinished(names: list[str]) -> list[int]:
    """Return the ids, among the names in jobs/, whose removal was begun. Pure."""
    tails = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return [int(tail) for tail in tails if tail.isascii() and tail.isdigit()]


class Removals:
    """The removals under way. Belongs to one event loop."""

    def __init__(
        self, paths: Paths, store: Store, board: Board, highest_id: Callable[[], int]
    ) -> None:
        """`highest_id` says which id was the highest ever given."""
        self.is_closing = False
        self._paths = paths
        self._store = store
        self._board = board
        self._highest_id = highest_id
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._keeping_id = asyncio.Lock()

    async def remove(self, job_id: int, key: str) -> None:
        """Remove one job. See `Supervisor.remove`."""
        task = self._under_way.get(job_id)
        if task is None:
            if self._store.find_done(key) is not None:
                return
            if self.is_closing:
                raise DrainingError("the agent is being restarted; try again")
            self._check(job_id)
            task = asyncio.create_task(self._remove(job_id, key))
            self._under_way[job_id] = task
            task.add_done_callback(lambda done: self._forget(job_id, done))
        await asyncio.shield(task)

    def _forget(self, job_id: int, task: asyncio.Task[None]) -> None:
        del self._under_way[job_id]
        if not task.cancelled():
            # Marks it as seen: the client that asked may be gone.
            task.exception()

    def _check(self, job_id: int) -> None:
        state = self._board.get(job_id).state
        if not is_final(state):
            raise WrongStateError(f"job {job_id} is {describe(state)}; stop it before removing it")
        if self._board.is_active(job_id):
            raise WrongStateError(f"the end of job {job_id} is not on record yet; try again")

    async def _remove(self, job_id: int, key: str) -> None:
        async with self._keeping_id:
            try:
                await asyncio.to_thread(keep_id, self._paths, job_id, self._highest_id())
            except DiskFullError:
                await asyncio.to_thread(make_room, self._paths, job_id)
                await asyncio.to_thread(keep_id, self._paths, job_id, self._highest_id())
        await asyncio.to_thread(begin, self._paths, job_id)
        self._board.drop(job_id, (key,))
        reach("server.remove.dropped")
        await asyncio.to_thread(complete, self._paths, job_id)

    async def close(self, timeout_s: float) -> None:
        """Take no more, and wait for those under way."""
        self.is_closing = True
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=timeout_s)
