"""Opening the index, and making it anew from jobs/ when it is missing or damaged.

The new index is filled under another name and renamed when it is whole, so that a crash in
the middle leaves no half-filled one behind. A job without an exit record comes back as
queued: recovery then looks at what is really the matter with it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from agentd.core.describe import is_final
from agentd.core.job import JobSpec, Queued, State
from agentd.errors import RecordCorruptError, StoreCorruptError
from agentd.paths import Paths
from agentd.server.runtime import requeuefile, schema
from agentd.server.runtime.model import JobSummary
from agentd.server.runtime.store import Store, insert_job, settle_debt
from agentd.system import clock, jobdir
from agentd.system.files import fsync_directory, system_error

#: Rows in one transaction of a rebuild.
BATCH_ROWS = 1_000

_log = structlog.get_logger("agentd.store")


@dataclass(slots=True)
class Counts:
    """What a rebuild found."""

    jobs: int = 0
    active: int = 0
    #: Directories that were never completed, or are none of ours.
    skipped: int = 0
    #: Jobs with a spec.json or an exit.json that cannot be read.
    corrupt: int = 0


def open_store(paths: Paths) -> Store:
    """Return the index; made anew from jobs/ when there is none that works.

    Raises:
        AgentError: A newer agent made it, or the disk refuses.

    """
    damage = ""
    if os.path.exists(paths.database):
        try:
            return Store(schema.open_checked(paths.database))
        except StoreCorruptError as error:
            damage = str(error)
    aside = schema.set_aside(paths.database)
    counts = rebuild(paths)
    if counts.jobs or counts.skipped or aside:
        _log.warning(
            "store.rebuilt",
            reason=damage or "the index was missing",
            set_aside=aside or None,
            jobs=counts.jobs,
            active_jobs=counts.active,
            skipped=counts.skipped,
            corrupt=counts.corrupt,
        )
    return Store(schema.open_checked(paths.database))


def rebuild(paths: Paths) -> Counts:
    """Make the index from jobs/, one directory at a time.

    Raises:
        DiskFullError: There is no room for it.
        SystemCallError: jobs/ cannot be read, or the index not be written.

    """
    scratch = f"{paths.database}.new"
    try:
        _unlink_if_there(scratch)
        connection = schema.create(scratch)
        try:
            counts = _fill(connection, paths.jobs)
        finally:
            connection.close()
        _sync(scratch)
        os.rename(scratch, paths.database)
        fsync_directory(paths.state_dir)
    except sqlite3.Error as error:
        raise schema.translate(error) from error
    except OSError as error:
        raise system_error(f"rebuild the index {paths.database}", error) from error
    return counts


def _fill(connection: sqlite3.Connection, jobs: str) -> Counts:
    counts = Counts()
    # Event numbers only grow for those who watch. The old ones are gone, so the new ones begin
    # beyond any that could have been handed out: a thousand a second since the epoch.
    seq = clock.wall_ns() // 1_000_000
    connection.execute("BEGIN")
    for directory in job_directories(jobs):
        if _insert(connection, directory, seq, counts) and counts.jobs % BATCH_ROWS == 0:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
    if counts.jobs:
        connection.execute("INSERT INTO meta VALUES ('first_seq', ?)", (str(seq),))
    connection.execute("COMMIT")
    return counts


def job_directories(jobs: str) -> Iterator[tuple[int, str]]:
    """Yield id and path of every job directory, in no order, without reading any."""
    with os.scandir(jobs) as entries:
        for entry in entries:
            if entry.name.isascii() and entry.name.isdigit():
                yield int(entry.name), entry.path


def _insert(
    connection: sqlite3.Connection, found: tuple[int, str], seq: int, counts: Counts
) -> bool:
    job_id, directory = found
    # What cannot be read now may be a bad block: one job must not cost all the others.
    spec = _spec_of(job_id, directory, counts)
    if spec is None:
        counts.skipped += 1
        return False
    state = _state_of(directory, counts)
    try:
        info = insert_job(connection, spec, state, seq)
    except sqlite3.IntegrityError:
        # Two directories with one key: a copy made by hand. The key goes with the first.
        info = insert_job(connection, replace(spec, idempotency_key=""), state, seq)
    if is_final(state) and info.spec.owes_requeue(state):
        _settle_requeue(connection, info.spec, directory)
    counts.jobs += 1
    counts.active += isinstance(state, Queued)
    return True


def _settle_requeue(connection: sqlite3.Connection, job: JobSummary, directory: str) -> None:
    settlement = requeuefile.read(directory)
    if settlement is not None:
        settle_debt(connection, replace(job, requeued_as=settlement.requeued_as))


def _spec_of(job_id: int, directory: str, counts: Counts) -> JobSpec | None:
    try:
        spec = jobdir.read_spec(directory)
    except (RecordCorruptError, OSError):
        counts.corrupt += 1
        return placeholder(job_id, directory)
    if spec is None and os.path.exists(f"{directory}/{jobdir.EXIT}"):
        # It ended, so it was a job: it stays, whoever removed its spec.
        return placeholder(job_id, directory)
    return None if spec is None else replace(spec, id=job_id)


def _state_of(directory: str, counts: Counts) -> State:
    try:
        return jobdir.read_exit(directory) or Queued()
    except (RecordCorruptError, OSError):
        # Recovery sets it aside and says what is known.
        counts.corrupt += 1
        return Queued()


def placeholder(job_id: int, directory: str) -> JobSpec:
    """Return a spec for a job whose own cannot be read, so that it can be listed and removed."""
    try:
        submitted_at_ns = os.stat(directory).st_mtime_ns
    except FileNotFoundError:
        submitted_at_ns = clock.wall_ns()
    return JobSpec(
        id=job_id,
        uid="",
        idempotency_key="",
        submitted_at_ns=submitted_at_ns,
        argv=(),
        cwd="/",
        environment={},
    )


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
