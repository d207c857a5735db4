"""The index file: its tables, and how it is opened, checked and set aside.

One process uses the file (the server, under the warden's lock), so it is held in exclusive
locking mode: WAL then needs no shared memory, which a network file system does not have and a
full disk turns into SIGBUS (https://www.sqlite.org/wal.html, "without shared memory").
"""

from __future__ import annotations

import os
import sqlite3

from agentd.errors import AgentError, DiskFullError, StoreCorruptError

#: Raised whenever an older program could not use the tables.
SCHEMA_VERSION = 2

# What SQLite reports when the file is not what it wrote (https://www.sqlite.org/rescode.html).
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# A quota or a failing disk: SQLite itself knows a full disk only by ENOSPC.
_REFUSED_WRITES = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)

_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    key TEXT,
    name TEXT NOT NULL,
    active INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    summary TEXT NOT NULL,
    grace_s REAL NOT NULL,
    event_seq INTEGER NOT NULL
);
CREATE UNIQUE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL;
CREATE INDEX jobs_by_active ON jobs (active, id);
CREATE INDEX jobs_by_end ON jobs (kind, id) WHERE active = 0;
CREATE INDEX jobs_by_name ON jobs (name, id) WHERE name <> '';
CREATE TABLE labels (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (key, value, job_id)
) WITHOUT ROWID;
CREATE INDEX labels_by_job ON labels (job_id);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    summary TEXT
);
CREATE INDEX events_by_job ON events (job_id, seq);
CREATE TABLE done_keys (
    n INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    job_id INTEGER NOT NULL
);
CREATE TABLE requeues_owed (
    job_id INTEGER PRIMARY KEY
);
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
"""

#: Version 1 knew no requeue: the summaries' new fields have defaults.
_BEFORE_REQUEUES = 1
_ADD_REQUEUES = """
BEGIN;
CREATE TABLE IF NOT EXISTS requeues_owed (job_id INTEGER PRIMARY KEY);
PRAGMA user_version = 2;
COMMIT;
"""


def translate(error: sqlite3.Error) -> AgentError:
    """Return the agent's error for SQLite's."""
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code in _CORRUPT:
        return StoreCorruptError(f"the index is damaged: {error}")
    if code == sqlite3.SQLITE_FULL or extended in _REFUSED_WRITES:
        return DiskFullError("cannot write the index: the disk is full or failing; free some space")
    return AgentError(f"the index does not work: {error}")


def create(path: str) -> sqlite3.Connection:
    """Make an empty index for filling: fast, and worthless if the process dies meanwhile."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection


def open_checked(path: str) -> sqlite3.Connection:
    """Open an existing index after a look at every page.

    Raises:
        StoreCorruptError: It is not an index, or a damaged one.
        AgentError: A newer agent made it, or it cannot be opened.

    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    except sqlite3.Error as error:
        raise translate(error) from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_version(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the newest transactions, never the file; jobs/ holds the truth.
        connection.execute("PRAGMA synchronous = NORMAL")
        _check_pages(connection)
    except sqlite3.Error as error:
        connection.close()
        raise translate(error) from error
    except AgentError:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    # Before anything writes: an empty file is evidence, and becoming WAL gives it a header.
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _BEFORE_REQUEUES:
        connection.executescript(_ADD_REQUEUES)
        version = SCHEMA_VERSION
    if version > SCHEMA_VERSION:
        raise AgentError(
            f"{path} was made by a newer agent (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); run the newer agentctl, or move the file away to have it rebuilt"
        )
    if version != SCHEMA_VERSION:
        raise StoreCorruptError("the index is empty or truncated")


def _check_pages(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreCorruptError(f"the index is damaged: {verdict}")


def set_aside(path: str) -> str:
    """Rename the index and what belongs to it; return the new name, "" if nothing was there."""
    number = 1
    while os.path.lexists(f"{path}.corrupt-{number}"):
        number += 1
    aside = ""
    for suffix in ("-wal", "-shm", ""):
        try:
            os.rename(f"{path}{suffix}", f"{path}.corrupt-{number}{suffix}")
        except FileNotFoundError:
            continue
        aside = f"{path}.corrupt-{number}"
    return aside
