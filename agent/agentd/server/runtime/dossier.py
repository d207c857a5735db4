"""What the disk says of one job: the facts that recovery decides by. Reads only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from agentd.core.contract import JobView
from agentd.core.job import FinalState, JobSpec, Paused, Running, State, Stopping
from agentd.core.recovery import Facts, Standing
from agentd.errors import RecordCorruptError
from agentd.system import clock, jobdir, locks
from agentd.system.records import PidRecord, StopRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dossier:
    """The records of one job directory, each as it was found."""

    spec: JobSpec | None
    spec_standing: Standing
    final: FinalState | None
    exit_standing: Standing
    pid: PidRecord | None
    pid_standing: Standing
    stop: StopRecord | None
    #: Somebody holds the pidfile's lock. None: cannot tell.
    locked: bool | None


def read(directory: str) -> Dossier:
    """Read every record of a job.

    Raises:
        OSError: A file is there and the kernel does not let it be read.

    """
    # First the lock, then the records: who let go of the lock in between has written them.
    locked = locks.is_locked(f"{directory}/{jobdir.PID}")
    spec, spec_standing = _record(jobdir.read_spec, directory)
    exit_record: tuple[FinalState | None, Standing] = _record(jobdir.read_exit, directory)
    final, exit_standing = exit_record
    pid, pid_standing = _record(jobdir.read_pid, directory)
    stop, _ = _record(jobdir.read_stop, directory)
    return Dossier(spec, spec_standing, final, exit_standing, pid, pid_standing, stop, locked)


def _record(read_one: Callable[[str], T | None], directory: str) -> tuple[T | None, Standing]:
    try:
        found = read_one(directory)
    except RecordCorruptError:
        return None, Standing.CORRUPT
    return found, Standing.ABSENT if found is None else Standing.SOUND


def facts_of(dossier: Dossier, state: State | None, view: JobView | None) -> Facts:
    """Return the facts: the records, what the index last knew, what the warden says. Pure."""
    stop_cause = dossier.stop.cause if dossier.stop is not None else None
    if isinstance(state, Stopping):
        stop_cause = stop_cause or state.cause
    return Facts(
        spec=dossier.spec_standing,
        boot_id=clock.boot_id(),
        exit=dossier.exit_standing,
        final=dossier.final,
        pid=dossier.pid_standing,
        started_in_boot="" if dossier.pid is None else dossier.pid.boot_id,
        locked=dossier.locked,
        view=view,
        was_seen_running=_was_seen_running(state),
        stop_cause=stop_cause,
    )


def _was_seen_running(state: State | None) -> bool:
    if isinstance(state, Stopping):
        return state.handle is not None
    return isinstance(state, Running | Paused)
