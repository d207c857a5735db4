"""Owns the jobs: what the edge asks for and what the warden reports, tied together.

One event loop, one thread, and a few more that wait for the disk. A submit makes marker,
directory and row, in this order, then asks for the launch and answers (`submits`); requests
go to the job's shim first and to the index second (`requests`); an end is read from its
record, indexed, and its marker removed (`endings`). Each step can be the last one before a
crash, and `recover` says what then follows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum

import structlog

from agentd.core import contract, lifecycle
from agentd.core.guard.model import GuardPolicy
from agentd.core.job import Cause, Paused, Stopping
from agentd.errors import AgentError, StoreCorruptError, WardenGoneError
from agentd.paths import Paths
from agentd.server.runtime import listing, recover
from agentd.server.runtime.backstop import Backstop
from agentd.server.runtime.board import Board, end_name
from agentd.server.runtime.endings import Endings
from agentd.server.runtime.events import Broadcast, Change
from agentd.server.runtime.guarddesk import GuardDesk
from agentd.server.runtime.hooks import Hooks, HooksConfig
from agentd.server.runtime.messages import event_of, proposed_end
from agentd.server.runtime.model import (
    Defaults,
    Event,
    JobDraft,
    JobInfo,
    JobPage,
    JobQuery,
    Remarks,
)
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.removal import Removals
from agentd.server.runtime.requests import Requests
from agentd.server.runtime.requeue import Requeues
from agentd.server.runtime.store import Store
from agentd.server.runtime.submits import Submits
from agentd.server.runtime.wardenlink import WardenLink, open_link
from agentd.system.crashpoint import reach

#: How long `close` waits for what is under way.
CLOSE_S = 2.0
#: The kernel's layer stays: a limit it was given is not taken back.
_NO_LAYER = "no sampling: the guard is off"

_log = structlog.get_logger("agentd.supervisor")


class LinkEnd(Enum):
    """Why `Supervisor.run` returned."""

    DRAIN = "drain"
    WARDEN_GONE = "warden gone"


class Supervisor:
    """Every job of the agent. Belongs to one event loop.

    `open` reads the warden's Hello and recovers; then `announce_ready` once the socket is
    published, `run` until the server has to end, `close`.
    """

    def __init__(
        self,
        paths: Paths,
        store: Store,
        link: WardenLink,
        hello: contract.Hello,
        defaults: Defaults,
        hooks: HooksConfig = HooksConfig(),  # noqa: B008  # frozen
    ) -> None:
        """Take over index and link; see `open`."""
        self.warden_pid = hello.warden_pid
        self.started_at_ns = hello.started_at_ns
        self._store = store
        self._link = link
        self._broadcast = Broadcast()
        self._board = Board(store, self._broadcast)
        self._endings = Endings(paths, self._board)
        self._requests = Requests(store, self._board, self._broadcast, self._endings, link)
        perform = self._requests.perform
        self._submits = Submits(paths, store, self._board, perform, defaults)
        self._removals = Removals(paths, store, self._board, lambda: self._submits.highest_id)
        self._recovery = recover.Recovery(paths, store, self._board, self._endings, perform)
        self._hooks = Hooks(paths.log_dir, hooks)
        self._guard = GuardDesk(store, self._board, link, self._hooks)
        self._requeues = Requeues(
            paths, store, self._board, self._submits.submit, self._guard.is_memory_back
        )
        self._endings.on_end = self._note_end
        self._backstop = Backstop(link.send)
        self._looking_again: asyncio.Task[None] | None = None
        self._damage: asyncio.Future[LinkEnd] = asyncio.get_running_loop().create_future()
        store.on_damage = self._note_damage

    @classmethod
    async def open(
        cls,
        paths: Paths,
        warden_fd: int,
        defaults: Defaults,
        hooks: HooksConfig = HooksConfig(),  # noqa: B008  # frozen
    ) -> Supervisor:
        """Open the index, read the warden's Hello and find out what became of every job.

        Raises:
            WardenGoneError: The warden went away before its Hello.
            AgentError: The index or the job directories cannot be used.

        """
        link = await open_link(warden_fd)
        store = open_store(paths)
        try:
            hello = await link.receive()
            if not isinstance(hello, contract.Hello):
                raise WardenGoneError("the warden went away before it said Hello")
            supervisor = cls(paths, store, link, hello, defaults, hooks)
            # Before the first launch: a job enters its cgroup when it begins, or never.
            await supervisor._backstop.install(hello.spawner_pid, hello.cgroup)
            await supervisor._recover(paths, hello)
        except AgentError as error:
            if isinstance(error, StoreCorruptError):
                store.condemn()
            store.close()
            await link.close()
            raise
        return supervisor

    async def _recover(self, paths: Paths, hello: contract.Hello) -> None:
        inventory = recover.take_inventory(paths, self._store)
        self._submits.continue_after(inventory.highest_id)
        self._recovery.sweep(inventory.doomed)
        views = {view.job_id: view for view in hello.jobs}
        waiting = await self._recovery.run(inventory, views)
        await self._endings.work_off()
        self._requeues.take_up()
        if waiting:
            self._looking_again = asyncio.create_task(self._recovery.look_again(waiting))

    def _note_end(self, info: JobInfo) -> None:
        self._requeues.add(info)
        self._hooks.ended(info, end_name(info.state))

    def _note_damage(self, error: StoreCorruptError) -> None:
        if not self._damage.done():
            self._damage.set_exception(error)

    def announce_ready(self, socket: str) -> None:
        """Tell the warden that RPCs are answered on this socket. Raises WardenGoneError."""
        self._link.send(contract.Ready(socket))

    def shut_agent_down(self) -> None:
        """Have the warden end the agent; the jobs go on. Raises WardenGoneError."""
        self._link.send(contract.Shutdown())

    async def run(self) -> LinkEnd:
        """Serve the warden's messages and the jobs' ends until the server has to end.

        Raises:
            StoreCorruptError: The index is damaged. It was set aside; the next start makes it
                anew.

        """
        receiving = asyncio.create_task(self._receive())
        indexing = asyncio.create_task(self._endings.run())
        requeueing = asyncio.create_task(self._requeues.run())
        try:
            ended, _ = await asyncio.wait(
                (receiving, indexing, requeueing, self._damage),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._damage.done():
                aside = self._store.condemn()
                _log.error("store.damaged", set_aside=aside)
                return self._damage.result()
            # `indexing` and `requeueing` end only by an error, which this raises.
            why: LinkEnd = ended.pop().result()
            return why
        finally:
            self._submits.is_closing = self._removals.is_closing = True
            tasks = (receiving, indexing, requeueing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finish what is under way, 2 s at most, and let go of everything."""
        self._backstop.close()
        if self._looking_again is not None:
            self._looking_again.cancel()
        await asyncio.gather(
            self._submits.close(CLOSE_S),
            self._removals.close(CLOSE_S),
            asyncio.to_thread(self._hooks.close, CLOSE_S),
        )
        self._endings.close()
        await self._link.close()
        self._store.close()

    async def _receive(self) -> LinkEnd:
        async for message in self._link:
            if isinstance(message, contract.Drain):
                return LinkEnd.DRAIN
            try:
                self._take(message)
            except StoreCorruptError:
                raise
            except AgentError as error:
                kind = type(message).__name__
                _log.warning("warden.message_ignored", message=kind, error=str(error))
        return LinkEnd.WARDEN_GONE

    def _take(self, message: contract.Message) -> None:
        if isinstance(message, contract.JobRecorded):
            reach("server.end.received")
            if self._board.is_active(message.job_id):
                self._endings.add(message.job_id)
            return
        if self._take_of_guard(message):
            return
        if isinstance(message, contract.JobStarted):
            reach("server.started.received")
        if isinstance(message, contract.Refused):
            _log.warning(
                "warden.refused",
                job_id=message.job_id,
                request=message.request,
                reason=message.reason,
            )
        found = event_of(message)
        if found is None:
            return
        job_id, event = found
        if isinstance(event, lifecycle.Gone | lifecycle.LaunchRefused):
            final = proposed_end(self._board.get(job_id).state, event)
            if final is not None:
                self._endings.add(job_id, final)
            return
        self._board.advance(job_id, event, self._requests.perform)

    def _take_of_guard(self, message: contract.Message) -> bool:
        match message:
            case contract.GuardNotice():
                self._guard.take_notice(message)
            case contract.GuardReport():
                self._guard.take_report(message)
            case contract.SpawnerStarted():
                self._backstop.install_later(message.spawner_pid)
            case _:
                return False
        return True

    async def submit(self, draft: JobDraft) -> JobInfo:
        """Accept a job and have it launched. The same key is the same job, restarts included.

        Raises:
            InvalidSpecError: The draft is wrong; the message names the field.
            DiskFullError: There is no room; nothing is left of it.
            SystemCallError: The kernel refuses; the same.
            DrainingError: The server is ending.

        """
        return await self._submits.submit(draft)

    def set_defaults(self, defaults: Defaults) -> None:
        """Use other defaults from the next submit on."""
        self._submits.defaults = defaults

    def set_hooks(self, hooks: HooksConfig) -> None:
        """Run other hooks from the next end or guard's act on."""
        self._hooks.config = hooks

    def set_guard(self, policy: GuardPolicy) -> None:
        """Have the guard follow this policy from now on. Raises WardenGoneError."""
        self._guard.apply(policy)

    async def guard_report(self) -> contract.GuardReport:
        """Return the guard's view of host and jobs, with the kernel's layer.

        Raises:
            GuardSilentError: The warden does not answer within 2 s.
            WardenGoneError: It is gone.

        """
        report = await self._guard.report()
        own = report.layers if report.enabled else (_NO_LAYER,)
        return replace(report, layers=(*own, self._backstop.layer))

    def remarks(self, info: JobInfo) -> Remarks:
        """Return what is known of a job beside its state."""
        match info.state:
            case Paused():
                return Remarks(guard_reason=self._guard.pause_reason(info))
            case Stopping(cause=Cause.GUARD):
                return Remarks(guard_reason=self._guard.end_reason(info))
            case _:
                return self._requeues.remarks(info)

    def get(self, job_id: int) -> JobInfo:
        """Return one job. Raises JobNotFoundError."""
        return self._board.get(job_id)

    def list(self, query: JobQuery) -> JobPage:
        """Return one page of a listing, newest first."""
        page = listing.list_jobs(self._store, query)
        jobs = map(self._board.newest, page.jobs)
        wanted = tuple(j for j in jobs if not query.states or type(j.state) in query.states)
        return replace(page, jobs=wanted)

    def counts(self) -> tuple[int, int]:
        """Return how many jobs are not over, and how many there are."""
        return self._board.active_count, self._store.total

    def events_after(self, seq: int, job_ids: frozenset[int], limit: int) -> tuple[Event, ...]:
        """Return at most `limit` events after `seq`, oldest first; no ids: of every job."""
        return self._store.events_after(seq, job_ids, limit)

    def last_seq(self) -> int:
        """Return the number of the newest event."""
        return self._store.last_seq

    def changed(self, job_id: int | None = None) -> Change:
        """Return the next change of any job, or of one, which wakes far less."""
        return self._broadcast.changed(job_id)

    async def stop(self, job_id: int, grace_s: float | None, key: str) -> JobInfo:
        """Have the whole tree stopped. None: with the job's own grace.

        What a lost job left behind is stopped too. Returns at once, with the job stopping.
        A job that the guard has ended and that waits to be requeued will not be.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It is over.
            InvalidSpecError: The grace is absurd.
            WardenGoneError: Nobody can pass it on; try again.

        """
        cancelled = await self._requeues.cancel(job_id, "stopped by the user")
        if cancelled is not None:
            self._board.remember(key, job_id)
            return cancelled
        return await self._requests.stop(job_id, grace_s, key)

    async def signal(self, job_id: int, signal_number: int, key: str) -> JobInfo:
        """Have a signal sent to the job's leading process group.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It does not run.
            InvalidSpecError: There is no such signal.
            WardenGoneError: Nobody can pass it on; try again.

        """
        return await self._requests.signal(job_id, signal_number, key)

    async def pause(self, job_id: int, key: str) -> JobInfo:
        """Have the whole tree stopped with SIGSTOP; return once that is confirmed, or after 5 s.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It does not run.
            WardenGoneError: Nobody can pass it on; try again.

        """
        return await self._requests.pause(job_id, key)

    async def resume(self, job_id: int, key: str) -> JobInfo:
        """Let a paused job go on; return once that is confirmed, or after 5 s.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It is neither paused nor running.
            WardenGoneError: Nobody can pass it on; try again.

        """
        return await self._requests.resume(job_id, key)

    async def remove(self, job_id: int, key: str) -> None:
        """Forget a job that is over, and remove its directory with its logs.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It is not over.
            SystemCallError: The directory cannot be removed; try again.

        """
        place = self._requeues.hold(job_id)
        try:
            await self._removals.remove(job_id, key)
        except AgentError:
            self._requeues.restore(job_id, place)
            raise
