"""The jobs as they are now: each change goes through the lifecycle, the index and the watchers.

What is not over is kept in memory. The index follows in the same turn; if the disk is full it
lags behind, and memory and the job directories stay right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from agentd.core import lifecycle
from agentd.core.describe import describe, is_final
from agentd.core.ending import signal_name
from agentd.core.job import Ended, FinalState, JobSpec, Lost, StartFailed, State
from agentd.core.lifecycle import LifeEvent
from agentd.errors import DiskFullError, JobNotFoundError
from agentd.server.runtime.events import Broadcast
from agentd.server.runtime.model import JobInfo, JobSummary
from agentd.server.runtime.store import Note, Store
from agentd.system import clock

_EVENT_NAMES: dict[type[LifeEvent], str] = {
    lifecycle.LaunchRequested: "job.launched",
    lifecycle.StopRequested: "job.stop_requested",
    lifecycle.SignalRequested: "job.signal_sent",
    lifecycle.Started: "job.started",
    lifecycle.PauseSeen: "job.paused",
    lifecycle.ResumeSeen: "job.resumed",
    lifecycle.StopSeen: "job.stopping",
    lifecycle.ShimReplaced: "job.shim_replaced",
    lifecycle.Adopted: "job.adopted",
}
_END_NAMES: dict[type[FinalState], str] = {
    Ended: "job.ended",
    StartFailed: "job.start_failed",
    Lost: "job.lost",
}
#: Worth an event although the state stays.
_ALWAYS_NOTED = (lifecycle.SignalRequested, lifecycle.StopRequested)

_log = structlog.get_logger("agentd.board")


class Board:
    """Every job's state. Belongs to one event loop."""

    def __init__(self, store: Store, broadcast: Broadcast) -> None:
        """Take over what the index says is not over."""
        self._store = store
        self._broadcast = broadcast
        self._active: dict[int, JobInfo] = {info.spec.id: info for info in store.active()}

    @property
    def active_count(self) -> int:
        """How many jobs are not over."""
        return len(self._active)

    def active_ids(self) -> list[int]:
        """Return the ids of the jobs that are not over, oldest first."""
        return sorted(self._active)

    def is_active(self, job_id: int) -> bool:
        """Say whether the job's end is still to come, or still to be indexed."""
        return job_id in self._active

    def find(self, job_id: int) -> JobInfo | None:
        """Return the job, if there is one."""
        return self._active.get(job_id) or self._store.get(job_id)

    def newest(self, listed: JobInfo) -> JobInfo:
        """Return a job of the index as it is now: on a full disk the index lags behind."""
        return self._active.get(listed.spec.id, listed)

    def get(self, job_id: int) -> JobInfo:
        """Return the job. Raises JobNotFoundError."""
        info = self.find(job_id)
        if info is None:
            raise JobNotFoundError(f"there is no job {job_id}")
        return info

    def add(self, spec: JobSpec, notes: Sequence[Note]) -> JobInfo:
        """Add a job. Raises DiskFullError: nothing was added."""
        info = self._store.add(spec, notes)
        self._active[spec.id] = info
        self._broadcast.announce(spec.id)
        return info

    def advance(
        self,
        job_id: int,
        event: LifeEvent,
        perform: Callable[[int, Sequence[lifecycle.Command]], None],
        key: str = "",
    ) -> JobInfo:
        """Let something happen to a job that does not end it.

        The commands that follow are carried out first: what cannot be passed on has not
        happened.

        Raises:
            JobNotFoundError: There is no such job.
            InvalidTransitionError: Its state does not allow this.
            AgentError: What `perform` raises; the state is then unchanged.

        """
        info = self.get(job_id)
        state, commands = lifecycle.step(info.state, event)
        perform(job_id, commands)
        if state == info.state and not isinstance(event, _ALWAYS_NOTED):
            self.remember(key, job_id)
            return info
        note = Note(clock.wall_ns(), _EVENT_NAMES[type(event)], state, _detail(event))
        return self._show(info, note, key)

    def remember(self, key: str, job_id: int) -> None:
        """Note that what was asked under this key is done, if the disk has room for it."""
        if not key:
            return
        try:
            self._store.note_key(key, job_id)
        except DiskFullError as error:
            # It was done; asked again, it is done again. Better than an error that is none.
            _log.error("store.write_failed", job_id=job_id, error=str(error))

    def _show(self, info: JobInfo, note: Note, key: str) -> JobInfo:
        try:
            shown = self._store.record(info.spec, note, key)
        except DiskFullError as error:
            _log.error("store.write_failed", job_id=info.spec.id, error=str(error))
            shown = JobInfo(info.spec, note.state, info.event_seq)
        self._active[info.spec.id] = shown
        self._broadcast.announce(info.spec.id)
        return shown

    def finish(self, job_id: int, final: FinalState) -> JobInfo | None:
        """Index an end that stands on disk. Returns None if it was indexed before.

        Raises:
            DiskFullError: The index has no room: everybody sees the end, and the call is to
                be repeated.

        """
        info = self._active.get(job_id)
        if info is None:
            return None
        state, _retire = lifecycle.step(info.state, lifecycle.Recorded(final))
        note = Note(clock.wall_ns(), end_name(state), state, describe(state))
        try:
            shown = self._store.record(info.spec, note, ends=True)
        except DiskFullError:
            self._active[job_id] = JobInfo(info.spec, state, info.event_seq)
            self._broadcast.announce(job_id)
            raise
        del self._active[job_id]
        self._broadcast.announce(job_id)
        return shown

    def note(self, job_id: int, kind: str, detail: str, at_ns: int) -> JobInfo:
        """Note something that leaves the job's state alone; also of a job that is over.

        Raises:
            JobNotFoundError: There is no such job.

        """
        info = self.get(job_id)
        note = Note(at_ns, kind, info.state, detail)
        if self.is_active(job_id):
            return self._show(info, note, "")
        try:
            info = self._store.record(info.spec, note)
        except DiskFullError as error:
            _log.error("store.write_failed", job_id=job_id, error=str(error))
        self._broadcast.announce(job_id)
        return info

    def settle_requeue(self, job: JobSummary, state: State, kind: str, detail: str) -> JobInfo:
        """Note what became of the requeue a job that is over was owed.

        Raises:
            DiskFullError: There is no room; it is still owed.

        """
        info = self._store.settle_requeue(job, Note(clock.wall_ns(), kind, state, detail))
        self._broadcast.announce(job.id)
        return info

    def drop(self, job_id: int, keys: Sequence[str]) -> None:
        """Forget a job. Raises DiskFullError: nothing was forgotten."""
        info = self.find(job_id)
        if info is None:
            return
        self._store.remove(info, Note(clock.wall_ns(), "job.removed", info.state), keys)
        self._active.pop(job_id, None)
        self._broadcast.announce(job_id)


def end_name(state: State) -> str:
    """Return the name of the event by which a job came into this final state. Pure."""
    return _END_NAMES[type(state)] if is_final(state) else ""


def _detail(event: LifeEvent) -> str:
    match event:
        case lifecycle.StopRequested():
            return f"grace {event.grace_s:g} s"
        case lifecycle.SignalRequested():
            return signal_name(event.signal_number)
        case lifecycle.ShimReplaced():
            return f"shim {event.shim_pid}"
        case _:
            return ""
