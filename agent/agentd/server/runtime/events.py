"""Waking those who wait for a change, without a queue for anyone.

A watcher takes a `Change`, then reads what it wants to know, then waits: what happens after
it took the `Change` wakes it, so nothing falls between reading and waiting. It reads at its own
pace from the store; a stalled watcher costs one object.
"""

from __future__ import annotations

import asyncio
import weakref


class Change:
    """The next change, once: `wait` returns as soon as it has happened."""

    __slots__ = ("__weakref__", "_happened")

    def __init__(self) -> None:
        """Belongs to the running loop's thread."""
        self._happened = asyncio.Event()

    async def wait(self) -> None:
        """Return at the first change after this object was handed out."""
        await self._happened.wait()

    def fire(self) -> None:
        """Wake everybody who holds this object."""
        self._happened.set()


class Broadcast:
    """Hands out changes: of any job, or of one."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._any = Change()
        # Weak: an entry lives as long as somebody holds the change, so that asking for the
        # change of a job that never changes again leaves nothing behind.
        self._of_job: weakref.WeakValueDictionary[int, Change] = weakref.WeakValueDictionary()

    def changed(self, job_id: int | None = None) -> Change:
        """Return the next change of this job, or of any."""
        if job_id is None:
            return self._any
        change = self._of_job.get(job_id)
        if change is None:
            change = self._of_job[job_id] = Change()
        return change

    def announce(self, job_id: int) -> None:
        """Wake who waits for this job or for any."""
        fired, self._any = self._any, Change()
        fired.fire()
        one = self._of_job.pop(job_id, None)
        if one is not None:
            one.fire()
