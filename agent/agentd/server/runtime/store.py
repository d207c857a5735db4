"""The index: what `ls`, `events` and idempotency need, in SQLite.

It can be rebuilt from jobs/ (`rebuild`), so a write that a power cut takes back is no loss.
Everything runs on the loop's thread: a transaction takes tens of microseconds. Whatever is
asked for often is covered by an index, so that nothing grows with the history.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from agentd.core.describe import is_final
from agentd.core.job import JobSpec, State
from agentd.errors import AgentError, StoreCorruptError
from agentd.server.runtime import codec, schema
from agentd.server.runtime.model import Event, JobInfo, JobSummary

#: How many events are kept.
KEPT_EVENTS = 100_000
#: How many keys of mutations are kept.
KEPT_KEYS = 10_000
#: Pruning once in so many inserts keeps it out of the cost of one.
_PRUNE_EVERY = 1_000
#: Newest events kept in memory: followers read these.
_TAIL_EVENTS = 1_024

_INSERT_JOB = (
    "INSERT INTO jobs (id, key, name, active, kind, state, summary, grace_s, event_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE_JOB = "UPDATE jobs SET kind = ?, state = ?, event_seq = ? WHERE id = ?"
# Apart from the other, which leaves the indexes by `active` alone.
_FINISH_JOB = "UPDATE jobs SET active = 0, kind = ?, state = ?, event_seq = ? WHERE id = ?"
_INSERT_LABEL = "INSERT OR IGNORE INTO labels (key, value, job_id) VALUES (?, ?, ?)"
_INSERT_EVENT = (
    "INSERT INTO events (seq, at_ns, job_id, event, detail, kind, state, summary)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_KEY = "INSERT OR IGNORE INTO done_keys (key, job_id) VALUES (?, ?)"
_SELECT_DONE = "SELECT job_id FROM done_keys WHERE key = ?1"
_SELECT_SUBMIT = (
    "SELECT id FROM jobs WHERE key = ?1"
    " UNION ALL SELECT job_id FROM done_keys WHERE key = ?1 LIMIT 1"
)
_SELECT_EVENTS = (
    "SELECT e.seq, e.at_ns, e.event, e.detail, e.job_id, e.kind, e.state,"
    " coalesce(e.summary, j.summary) AS text FROM events e LEFT JOIN jobs j ON j.id = e.job_id"
    " WHERE text IS NOT NULL"
)
SELECT_JOB = "SELECT id, kind, state, summary, event_seq FROM jobs"

JobRow = tuple[int, str, str, str, int]


@dataclass(frozen=True, slots=True)
class Note:
    """What is about to become an event."""

    at_ns: int
    event: str
    state: State
    detail: str = ""


def job_from_row(row: JobRow) -> JobInfo:
    """Return the job in a row of `SELECT_JOB`. Raises StoreCorruptError."""
    job_id, kind, state, summary, event_seq = row
    return JobInfo(
        codec.decode_summary(job_id, summary), codec.decode_state(kind, state), event_seq
    )


def _encoded(state: State) -> tuple[str, str]:
    return codec.STATE_NAMES[type(state)], codec.encode_state(state)


def insert_job(connection: sqlite3.Connection, spec: JobSpec, state: State, seq: int) -> JobInfo:
    """Add a row and its labels, inside the caller's transaction."""
    info = JobInfo(codec.summary_of(spec), state, seq)
    connection.execute(
        _INSERT_JOB,
        (
            spec.id,
            spec.idempotency_key or None,
            spec.name,
            not is_final(state),
            *_encoded(state),
            codec.encode_summary(info.spec),
            spec.grace_s,
            seq,
        ),
    )
    for key, value in spec.labels.items():
        connection.execute(_INSERT_LABEL, (key, value, spec.id))
    note_debt(connection, info.spec, state)
    return info


def note_debt(connection: sqlite3.Connection, job: JobSummary, state: State) -> None:
    """Remember that the job is to be requeued if it is, inside the caller's transaction."""
    if is_final(state) and job.requeued_as is None and job.owes_requeue(state):
        connection.execute("INSERT OR IGNORE INTO requeues_owed VALUES (?)", (job.id,))


def settle_debt(connection: sqlite3.Connection, job: JobSummary) -> None:
    """Forget that the job is to be requeued, and keep what it was requeued as."""
    connection.execute("DELETE FROM requeues_owed WHERE job_id = ?", (job.id,))
    connection.execute(
        "UPDATE jobs SET summary = ? WHERE id = ?", (codec.encode_summary(job), job.id)
    )


def _ignore_damage(_error: StoreCorruptError) -> None:
    """Stand in until somebody listens."""


class Store:
    """The index, open. Belongs to one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over a connection from `schema.open_checked`."""
        self._connection = connection
        #: Called when a read or a write finds the index damaged.
        self.on_damage: Callable[[StoreCorruptError], None] = _ignore_damage
        self._last_seq: int = self._scalar(
            "SELECT max(coalesce((SELECT max(seq) FROM events), 0),"
            " coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'first_seq'), 0))"
        )
        self._total: int = self._scalar("SELECT count(*) FROM jobs")
        self._tail: deque[Event] = deque(maxlen=_TAIL_EVENTS)

    @property
    def connection(self) -> sqlite3.Connection:
        """For the queries of `listing`."""
        return self._connection

    @property
    def last_seq(self) -> int:
        """Of the newest event; 0 before the first."""
        return self._last_seq

    @property
    def total(self) -> int:
        """How many jobs there are, ended ones included."""
        return self._total

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._connection.close()

    def condemn(self) -> str:
        """Close a damaged index and set it aside; return its new name."""
        (_seq, _name, path) = self._connection.execute("PRAGMA database_list").fetchone()
        self._connection.close()
        return schema.set_aside(path)

    def _scalar(self, query: str) -> int:
        with self.translated():
            (value,) = self._connection.execute(query).fetchone()
            return int(value)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into the agent's, and tell of damage."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._told(schema.translate(error)) from error
        except StoreCorruptError as error:
            raise self._told(error) from None

    def _told(self, error: AgentError) -> AgentError:
        if isinstance(error, StoreCorruptError):
            self.on_damage(error)
        return error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection, seq, total = self._connection, self._last_seq, self._total
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            self._last_seq, self._total = seq, total
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._told(schema.translate(error)) from error
            raise

    def add(self, spec: JobSpec, notes: Sequence[Note]) -> JobInfo:
        """Add a job with its first events, as one transaction. Returns it as the last one left it.

        Raises:
            DiskFullError: There is no room; nothing was added.
            StoreCorruptError: The index is damaged.

        """
        with self._transaction() as connection:
            last = notes[-1]
            info = insert_job(connection, spec, last.state, self._last_seq + len(notes))
            events = [self._insert_event(info.spec, note, _encoded(note.state)) for note in notes]
            self._total += 1
        self._tail.extend(events)
        return events[-1].job

    def record(self, job: JobSummary, note: Note, key: str = "", *, ends: bool = False) -> JobInfo:
        """Note an event and the state it led to, and the key it was asked under.

        With `ends` this event is the job's end; in the same transaction it becomes owed that
        the job is requeued, if that was asked for.

        Raises:
            DiskFullError: There is no room; nothing was noted.
            StoreCorruptError: The index is damaged.

        """
        with self._transaction() as connection:
            encoded = _encoded(note.state)
            event = self._insert_event(job, note, encoded)
            update = _FINISH_JOB if is_final(note.state) else _UPDATE_JOB
            connection.execute(update, (*encoded, event.seq, job.id))
            self._insert_key(key, job.id)
            if ends:
                note_debt(connection, job, note.state)
        self._tail.append(event)
        return event.job

    def settle_requeue(self, job: JobSummary, note: Note) -> JobInfo:
        """Note what became of an owed requeue; `job` holds what it was requeued as, if it was.

        Raises:
            DiskFullError: There is no room; it is still owed.
            StoreCorruptError: The index is damaged.

        """
        with self._transaction() as connection:
            encoded = _encoded(note.state)
            event = self._insert_event(job, note, encoded)
            connection.execute(_UPDATE_JOB, (*encoded, event.seq, job.id))
            settle_debt(connection, job)
        self._tail.append(event)
        return event.job

    def requeues_owed(self) -> list[int]:
        """Return the jobs that are to be requeued, oldest first."""
        with self.translated():
            rows = self._connection.execute("SELECT job_id FROM requeues_owed ORDER BY job_id")
            return [job_id for (job_id,) in rows]

    def has_event(self, job_id: int, event: str, at_ns: int) -> bool:
        """Say whether this very event of the job was noted before."""
        query = "SELECT 1 FROM events WHERE job_id = ? AND event = ? AND at_ns = ?"
        with self.translated():
            return self._connection.execute(query, (job_id, event, at_ns)).fetchone() is not None

    def last_of(self, job_id: int, events: Sequence[str]) -> tuple[str, str] | None:
        """Return name and detail of the job's newest event with one of these names."""
        marks = ", ".join("?" * len(events))
        query = (
            "SELECT event, detail FROM events INDEXED BY events_by_job"  # noqa: S608  # values are bound
            f" WHERE job_id = ? AND event IN ({marks}) ORDER BY seq DESC LIMIT 1"
        )
        with self.translated():
            row = self._connection.execute(query, (job_id, *events)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def remove(self, info: JobInfo, note: Note, keys: Sequence[str]) -> None:
        """Drop the job and its events but for the last, and keep the keys it was asked under.

        Raises:
            DiskFullError: There is no room; nothing was removed.
            StoreCorruptError: The index is damaged.

        """
        job_id = info.spec.id
        with self._transaction() as connection:
            row = connection.execute("SELECT key FROM jobs WHERE id = ?", (job_id,)).fetchone()
            for table in (
                "DELETE FROM labels",
                "DELETE FROM events",
                "DELETE FROM requeues_owed",
            ):
                connection.execute(f"{table} WHERE job_id = ?", (job_id,))
            connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            summary = codec.encode_summary(info.spec)
            event = self._insert_event(info.spec, note, _encoded(note.state), summary)
            for key in (*keys, *(row or ())):
                self._insert_key(key, job_id)
            if row is not None:
                self._total -= 1
        self._tail.append(event)

    def _insert_event(
        self, job: JobSummary, note: Note, encoded: tuple[str, str], summary: str | None = None
    ) -> Event:
        self._last_seq += 1
        seq = self._last_seq
        self._connection.execute(
            _INSERT_EVENT,
            (seq, note.at_ns, job.id, note.event, note.detail, *encoded, summary),
        )
        if seq % _PRUNE_EVERY == 0:
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (seq - KEPT_EVENTS,))
        return Event(seq, note.at_ns, note.event, JobInfo(job, note.state, seq), note.detail)

    def _insert_key(self, key: str | None, job_id: int) -> None:
        if not key:
            return
        n = self._connection.execute(_INSERT_KEY, (key, job_id)).lastrowid or 0
        if n % _PRUNE_EVERY == 0:
            self._connection.execute("DELETE FROM done_keys WHERE n <= ?", (n - KEPT_KEYS,))

    def note_key(self, key: str, job_id: int) -> None:
        """Remember that what was asked under this key is done. Empty keys are not remembered."""
        with self._transaction():
            self._insert_key(key, job_id)

    def find_submit(self, key: str) -> int | None:
        """Return the job that was submitted under this key, removed ones included."""
        return self._find(_SELECT_SUBMIT, key)

    def find_done(self, key: str) -> int | None:
        """Return the job on which something was done under this key."""
        return self._find(_SELECT_DONE, key)

    def _find(self, query: str, key: str) -> int | None:
        if not key:
            return None
        with self.translated():
            row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else int(row[0])

    def get(self, job_id: int) -> JobInfo | None:
        """Return one job. Raises StoreCorruptError."""
        with self.translated():
            row = self._connection.execute(f"{SELECT_JOB} WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else job_from_row(row)

    def grace_s(self, job_id: int) -> float:
        """Return the job's own grace."""
        return float(self._scalar_of("SELECT grace_s FROM jobs WHERE id = ?", job_id))

    def _scalar_of(self, query: str, job_id: int) -> float:
        with self.translated():
            row = self._connection.execute(query, (job_id,)).fetchone()
        return 0.0 if row is None else float(row[0])

    def active(self) -> list[JobInfo]:
        """Return every job that is not over. Raises StoreCorruptError."""
        with self.translated():
            rows = self._connection.execute(f"{SELECT_JOB} WHERE active = 1").fetchall()
            return [job_from_row(row) for row in rows]

    def highest_id(self) -> int:
        """Return the highest id in the index; 0 for none."""
        return self._scalar("SELECT coalesce(max(id), 0) FROM jobs")

    def knows(self, job_id: int) -> bool:
        """Say whether there is a row for this id."""
        with self.translated():
            query = "SELECT 1 FROM jobs WHERE id = ?"
            return self._connection.execute(query, (job_id,)).fetchone() is not None

    def meta(self, name: str) -> str:
        """Return a note about the index itself; "" for none."""
        with self.translated():
            query = "SELECT value FROM meta WHERE name = ?"
            row = self._connection.execute(query, (name,)).fetchone()
        return "" if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Keep a note about the index itself."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def events_after(self, seq: int, job_ids: frozenset[int], limit: int) -> tuple[Event, ...]:
        """Return at most `limit` events after `seq`, oldest first; of all jobs if none is named.

        Raises:
            StoreCorruptError: The index is damaged.

        """
        if seq >= self._last_seq:
            return ()
        if self._tail and seq >= self._tail[0].seq - 1:
            fresh = islice(self._tail, seq + 1 - self._tail[0].seq, None)
            wanted = (e for e in fresh if not job_ids or e.job.spec.id in job_ids)
            return tuple(islice(wanted, limit))
        with self.translated():
            if not job_ids:
                query = f"{_SELECT_EVENTS} AND e.seq > ? ORDER BY e.seq LIMIT ?"
                rows = self._connection.execute(query, (seq, limit)).fetchall()
            else:
                query = f"{_SELECT_EVENTS} AND e.job_id = ? AND e.seq > ? ORDER BY e.seq LIMIT ?"
                parts = (
                    self._connection.execute(query, (i, seq, limit)).fetchall() for i in job_ids
                )
                rows = list(islice(merge(*parts), limit))
            return tuple(_event_from_row(row) for row in rows)


def _event_from_row(row: tuple[int, int, str, str, int, str, str, str]) -> Event:
    seq, at_ns, event, detail, job_id, kind, state, summary = row
    info = JobInfo(codec.decode_summary(job_id, summary), codec.decode_state(kind, state), seq)
    return Event(seq, at_ns, event, info, detail)
