"""The index: what it keeps and how long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FileOutput,
    LeaderHandle,
    Lost,
    MergedOutput,
    Output,
    Paused,
    ProcessId,
    Queued,
    ResourceUsage,
    Running,
    SplitOutput,
    StartFailed,
    Starting,
    State,
    Stopping,
    TerminalOutput,
)
from agentd.errors import AgentError, DiskFullError, StoreCorruptError
from agentd.paths import Paths
from agentd.server.runtime import codec
from agentd.server.runtime.model import JobSummary
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.store import Note, Store
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec

HANDLE = LeaderHandle(5, ProcessId(42, 1000), 41)


STATES: tuple[State, ...] = (
    Queued(),
    Starting(),
    Running(HANDLE),
    Paused(LeaderHandle(5, ProcessId(42, 1000), None)),
    Stopping(None, Cause.USER),
    Stopping(HANDLE, Cause.TIMEOUT),
    Ended(5, 9, None, ExitStatus(9), Cause.GUARD, ResourceUsage(1.5, 0.5, 10), "too large"),
    StartFailed(9, Cause.SELF, "no such file", 2, "/tmp/\udcff"),
    Lost(9, Cause.REBOOT, "restarted", None, (4, 5)),
)


OUTPUTS: tuple[Output, ...] = (
    MergedOutput(),
    SplitOutput(),
    FileOutput("/tmp/out", None, append=True),
    TerminalOutput(80, 24),
)


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


@pytest.fixture(name="store")
def _store(paths: Paths) -> Iterator[Store]:
    """Yield an empty index; no file but the index is left when it is closed."""
    store = open_store(paths)
    yield store
    store.close()
    left = {name for name in os.listdir(paths.state_dir) if name.startswith("jobs.db")}
    assert left == {"jobs.db"}


def add(
    store: Store, job_id: int, *states: State, key: str = "", name: str = "", **labels: str
) -> None:
    """Add a job that goes through these states, queued first."""
    spec = make_spec(job_id, key=key, name=name, **labels)
    store.add(spec, [Note(1, "job.submitted", Queued())])
    for state in states:
        store.record(codec.summary_of(spec), Note(2, "job.changed", state))


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_every_state_comes_back_as_it_was(store: Store, state: State) -> None:
    """What `record` took, `get` returns."""
    add(store, 1, state)

    found = store.get(1)

    assert found is not None
    assert found.state == state


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_every_summary_comes_back_as_it_was(output: Output) -> None:
    """Bytes that are no UTF-8 included."""
    summary = JobSummary(7, "name", ("a\udcff", ""), "/tmp/\udc80", {"k": "v"}, 5, 1 << 40, output)

    assert codec.decode_summary(7, codec.encode_summary(summary)) == summary


def test_the_environment_never_reaches_the_index(store: Store, paths: Paths) -> None:
    """Neither its names nor its values stand in the file."""
    add(store, 1)
    store.close()

    content = Path(paths.database).read_bytes()

    assert b"hunter2" not in content
    assert b"SECRET" not in content


def test_jobs_and_events_survive_a_new_start(store: Store, paths: Paths) -> None:
    """Closed and opened, the index is the same."""
    add(store, 1, Running(HANDLE), ENDED, key="k1")
    events = store.events_after(0, frozenset(), 10)
    store.close()

    again = open_store(paths)

    assert again.last_seq == 3
    assert again.total == 1
    assert again.find_submit("k1") == 1
    assert again.events_after(0, frozenset(), 10) == events
    again.close()


def test_one_key_cannot_stand_for_two_jobs(store: Store) -> None:
    """The second insert fails and leaves nothing behind."""
    add(store, 1, key="k1")

    with pytest.raises(AgentError):
        add(store, 2, key="k1")

    assert store.get(2) is None
    assert (store.last_seq, store.total) == (1, 1)


def test_a_submit_under_a_removed_jobs_key_is_known(store: Store) -> None:
    """The key outlives the row; the events of the job go, but for the last."""
    add(store, 1, ENDED, key="k1")
    info = store.get(1)
    assert info is not None

    store.remove(info, Note(3, "job.removed", info.state), ["rm1"])

    assert store.get(1) is None
    assert store.find_submit("k1") == 1
    assert store.find_done("rm1") == 1
    assert store.total == 0


def test_the_event_of_a_removal_keeps_the_job(store: Store, paths: Paths) -> None:
    """Whoever follows from an old cursor sees what was removed, after a new start too."""
    add(store, 1, ENDED, name="train")
    info = store.get(1)
    assert info is not None
    store.remove(info, Note(3, "job.removed", info.state), [])
    store.close()

    again = open_store(paths)

    (event,) = again.events_after(0, frozenset(), 10)
    assert (event.seq, event.kind, event.job.spec.name) == (3, "job.removed", "train")
    again.close()


def test_only_the_newest_keys_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of mutations are pruned once in a thousand."""
    monkeypatch.setattr("agentd.server.runtime.store.KEPT_KEYS", 500)
    for number in range(1_001):
        store.note_key(f"k{number}", 1)

    assert store.find_done("k499") is None
    assert store.find_done("k500") == 1


def test_only_the_newest_events_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are pruned once in a thousand."""
    monkeypatch.setattr("agentd.server.runtime.store.KEPT_EVENTS", 500)
    add(store, 1)
    summary = codec.summary_of(make_spec(1))
    for _ in range(1_030):
        store.record(summary, Note(2, "job.changed", Starting()))

    first = store.events_after(0, frozenset(), 1)[0].seq

    assert first == 501


@pytest.mark.parametrize("tail", [1_024, 4], ids=["from memory", "from the file"])
def test_events_come_after_the_cursor_in_order(
    paths: Paths, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all jobs or of some, at most as many as asked for, wherever they are read from."""
    monkeypatch.setattr("agentd.server.runtime.store._TAIL_EVENTS", tail)
    store = open_store(paths)
    for job_id in (1, 2, 3):
        add(store, job_id, Starting(), Running(HANDLE), ENDED)

    def seqs(seq: int, limit: int, *job_ids: int) -> list[int]:
        return [event.seq for event in store.events_after(seq, frozenset(job_ids), limit)]

    assert seqs(0, 100) == list(range(1, 13))
    assert seqs(5, 3) == [6, 7, 8]
    assert seqs(2, 4, 1, 3) == [3, 4, 9, 10]
    assert seqs(10, 100) == [11, 12]
    assert seqs(12, 100) == []
    assert seqs(99, 100) == []
    store.close()


def test_a_full_disk_changes_nothing(store: Store) -> None:
    """The transaction is taken back, and says why; with room again it works."""
    add(store, 1)
    connection = store.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    huge = make_spec(2, name="x" * 100_000)

    with pytest.raises(DiskFullError, match="disk is full"):
        store.add(huge, [Note(1, "job.submitted", Queued())])

    assert (store.get(2), store.last_seq, store.total) == (None, 1, 1)
    connection.execute("PRAGMA max_page_count = 1000000")
    assert store.add(huge, [Note(1, "job.submitted", Queued())]).event_seq == 2


def test_damage_found_while_running_is_told_and_set_aside(store: Store, paths: Paths) -> None:
    """A row that makes no sense is damage; the next start rebuilds."""
    make_directory(paths, make_spec(1))
    add(store, 1)
    store.connection.execute("UPDATE jobs SET state = 'nonsense'")
    told: list[StoreCorruptError] = []
    store.on_damage = told.append

    with pytest.raises(StoreCorruptError):
        store.get(1)

    assert len(told) == 1
    aside = store.condemn()
    again = open_store(paths)
    assert again.get(1) is not None
    again.close()
    os.unlink(aside)
