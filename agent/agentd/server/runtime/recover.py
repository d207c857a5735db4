"""What a new server does first: find out what became of every job whose end is not indexed.

The ids come from live/, from rows that claim to be active, and from the warden's Hello; after
a restart of the machine also from job directories without a row, because a power cut may have
taken the newest rows and markers. The decision is `agentd.core.recovery.decide`; this module
gathers the facts and carries it out.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from agentd.core import lifecycle, recovery
from agentd.core.contract import JobView
from agentd.core.describe import is_final
from agentd.core.job import (
    ActiveState,
    LeaderHandle,
    Paused,
    Queued,
    Running,
    StartFailed,
    Starting,
    Stopping,
)
from agentd.errors import AgentError, StoreCorruptError
from agentd.paths import Paths
from agentd.server.runtime import dossier, removal
from agentd.server.runtime.board import Board
from agentd.server.runtime.dossier import Dossier
from agentd.server.runtime.endings import Endings
from agentd.server.runtime.making import unmake_job
from agentd.server.runtime.markers import remove_marker
from agentd.server.runtime.messages import proposed_end
from agentd.server.runtime.rebuild import placeholder
from agentd.server.runtime.store import Note, Store
from agentd.system import clock, jobdir
from agentd.system.files import system_error

#: Until a job is looked at again whose shim seems to live without the warden minding it.
LOOK_AGAIN_S = 5.0
_BATCH = 256

Perform = Callable[[int, Sequence[lifecycle.Command]], None]
_log = structlog.get_logger("agentd.recovery")


@dataclass(frozen=True, slots=True)
class Inventory:
    """The names on disk at the start."""

    highest_id: int
    live: frozenset[int]
    #: Removals that were begun.
    doomed: tuple[int, ...]
    #: Directories that may have no row; empty unless the machine was restarted.
    suspects: frozenset[int]


def take_inventory(paths: Paths, store: Store) -> Inventory:
    """Read the directories' names once.

    Raises:
        SystemCallError: They cannot be read.

    """
    try:
        names = os.listdir(paths.jobs)
        live = _ids(os.listdir(paths.live))
    except OSError as error:
        raise system_error(f"read the job directories in {paths.state_dir}", error) from error
    made = _ids(names)
    restarted = store.meta("boot_id") != clock.boot_id()
    highest = max(0, store.highest_id(), removal.read_last_id(paths), *live, *made)
    return Inventory(
        highest_id=highest,
        live=live,
        doomed=tuple(removal.unfinished(names)),
        suspects=frozenset(i for i in made if not store.knows(i)) if restarted else frozenset(),
    )


def _ids(names: Iterable[str]) -> frozenset[int]:
    return frozenset(int(name) for name in names if name.isascii() and name.isdigit())


class Recovery:
    """Decides about jobs and carries the decisions out. Belongs to one event loop."""

    def __init__(
        self, paths: Paths, store: Store, board: Board, endings: Endings, perform: Perform
    ) -> None:
        """`perform` carries out the lifecycle's commands."""
        self._paths = paths
        self._store = store
        self._board = board
        self._endings = endings
        self._perform = perform

    def sweep(self, doomed: Iterable[int]) -> None:
        """Finish the removals that were begun."""
        for job_id in doomed:
            try:
                removal.begin(self._paths, job_id)
                self._board.drop(job_id, ())
                removal.complete(self._paths, job_id)
            except StoreCorruptError:
                raise
            except AgentError as error:
                _log.error("job.removal_failed", job_id=job_id, error=str(error))
                continue
            _log.info("job.removal_finished", job_id=job_id)

    async def run(self, inventory: Inventory, views: Mapping[int, JobView]) -> list[int]:
        """Decide about every job whose end is not indexed; return those to look at again.

        Raises:
            StoreCorruptError: The index is damaged.

        """
        ids = inventory.live | set(self._board.active_ids()) | views.keys()
        waiting = await self._decide_all(sorted(ids), views)
        suspects = [i for i in sorted(inventory.suspects - ids) if self._has_spec(i)]
        waiting += await self._decide_all(suspects, {})
        if self._store.meta("boot_id") != clock.boot_id() and not waiting:
            self._note_boot()
        return waiting

    def _note_boot(self) -> None:
        try:
            self._store.set_meta("boot_id", clock.boot_id())
        except StoreCorruptError:
            raise
        except AgentError as error:
            # A full disk: the next start looks at everything again. Who could free room without us?
            _log.error("boot.not_noted", error=str(error))

    def _has_spec(self, job_id: int) -> bool:
        # Without marker, row and spec a directory is not ours to judge.
        return os.path.exists(f"{self._paths.job(job_id)}/{jobdir.SPEC}")

    async def look_again(self, waiting: Sequence[int]) -> None:
        """Decide again, every 5 s, about those that could not be decided about."""
        while waiting:
            seen = {job_id: self._seq(job_id) for job_id in waiting}
            await asyncio.sleep(LOOK_AGAIN_S)
            # One that the warden has reported on since is minded.
            still = [job_id for job_id, seq in seen.items() if self._seq(job_id) == seq]
            waiting = await self._decide_all(still, {})

    def _seq(self, job_id: int) -> int:
        info = self._board.find(job_id)
        return 0 if info is None else info.event_seq

    async def _decide_all(self, ids: Sequence[int], views: Mapping[int, JobView]) -> list[int]:
        waiting: list[int] = []
        tally: Counter[str] = Counter()
        for start in range(0, len(ids), _BATCH):
            found = await asyncio.to_thread(self._gather, ids[start : start + _BATCH])
            for job_id, papers in found.items():
                try:
                    decision = self._decide(job_id, papers, views.get(job_id))
                except StoreCorruptError:
                    raise
                except AgentError as error:
                    # One bad job, or a full disk, must not keep the server from starting.
                    _log.error("job.recovery_failed", job_id=job_id, error=str(error))
                    decision = recovery.Wait()
                tally[type(decision).__name__.lower()] += 1
                if isinstance(decision, recovery.Wait):
                    waiting.append(job_id)
        if ids:
            _log.info("jobs.recovered", **tally)
        return waiting

    def _gather(self, ids: Sequence[int]) -> dict[int, Dossier | AgentError]:
        return {job_id: self._read(job_id) for job_id in ids}

    def _read(self, job_id: int) -> Dossier | AgentError:
        try:
            return dossier.read(self._paths.job(job_id))
        except OSError as error:
            return system_error(f"read the records of job {job_id}", error)

    def _decide(
        self, job_id: int, papers: Dossier | AgentError, view: JobView | None
    ) -> recovery.Decision:
        if isinstance(papers, AgentError):
            raise papers
        info = self._board.find(job_id)
        if info is not None and is_final(info.state) and not self._board.is_active(job_id):
            # Its end was indexed; only the marker was left.
            remove_marker(self._paths, job_id)
            return recovery.Finish(info.state)
        state = None if info is None else info.state
        decision = recovery.decide(dossier.facts_of(papers, state, view))
        if info is None and not isinstance(decision, recovery.Discard):
            self._bring_back(job_id, papers)
        self._carry_out(job_id, papers, decision)
        return decision

    def _bring_back(self, job_id: int, papers: Dossier) -> None:
        spec = papers.spec or placeholder(job_id, self._paths.job(job_id))
        if self._store.find_submit(spec.idempotency_key) is not None:
            spec = replace(spec, idempotency_key="")
        self._board.add(
            replace(spec, id=job_id), [Note(clock.wall_ns(), "job.submitted", Queued())]
        )

    def _carry_out(self, job_id: int, papers: Dossier, decision: recovery.Decision) -> None:
        match decision:
            case recovery.Finish():
                self._endings.add(job_id, decision.final)
            case recovery.Adopt():
                self._adopt(job_id, decision)
            case recovery.Launch():
                self._board.advance(job_id, lifecycle.LaunchRequested(), self._perform)
            case recovery.GiveUpStart():
                final = StartFailed(clock.wall_ns(), decision.cause, decision.reason)
                self._endings.add(job_id, final)
            case recovery.Lose():
                self._lose(job_id, papers, decision)
            case recovery.Discard():
                self._board.drop(job_id, ())
                unmake_job(self._paths, job_id)
            case recovery.Wait():
                self._board.advance(job_id, lifecycle.Adopted(self._unsure(job_id)), self._perform)

    def _adopt(self, job_id: int, decision: recovery.Adopt) -> None:
        before = self._board.get(job_id).state
        self._board.advance(job_id, lifecycle.Adopted(decision.state), self._perform)
        if isinstance(before, Stopping) and not isinstance(decision.state, Stopping):
            # The stop was promised, and the message got lost with who should have passed it on.
            grace_s = self._store.grace_s(job_id)
            stop = lifecycle.StopRequested(clock.wall_ns(), grace_s, before.cause)
            self._board.advance(job_id, stop, self._perform)

    def _unsure(self, job_id: int) -> ActiveState:
        # A shim may be starting it: as queued it could be stopped behind that shim's back.
        state = self._board.get(job_id).state
        return state if isinstance(state, Running | Paused | Stopping) else Starting()

    def _lose(self, job_id: int, papers: Dossier, decision: recovery.Lose) -> None:
        handle = self._started_handle(papers)
        state = self._board.get(job_id).state
        if handle is not None and isinstance(state, Queued | Starting):
            self._board.advance(job_id, lifecycle.Started(handle), self._perform)
            state = self._board.get(job_id).state
        gone = lifecycle.Gone(clock.wall_ns(), decision.cause, decision.reason)
        self._endings.add(job_id, proposed_end(state, gone))

    def _started_handle(self, papers: Dossier) -> LeaderHandle | None:
        if papers.pid is None:
            return None
        return LeaderHandle(papers.pid.started_at_ns, papers.pid.leader, None)
