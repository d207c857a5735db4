"""The index: what it keeps, what it costs, and how it comes back."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
from agentd.server.runtime import codec, listing, schema
from agentd.server.runtime.model import JobQuery, JobSummary
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.store import Note, Store
from agentd.system import jobdir
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


def ids(store: Store, query: JobQuery) -> list[int]:
    """Return the ids of one page."""
    return [job.spec.id for job in listing.list_jobs(store, query).jobs]


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


def fill(store: Store) -> None:
    """Add ten jobs: 1 to 4 ended, 5 lost, 6 failed, 7 running, 8 paused, 9 and 10 queued."""
    for job_id in (1, 2, 3, 4):
        add(store, job_id, ENDED, name="train" if job_id % 2 else "", team="a")
    add(store, 5, STATES[-1], name="train")
    add(store, 6, STATES[-2])
    add(store, 7, Running(HANDLE), name="train", team="a", gpu="0")
    add(store, 8, Paused(HANDLE), team="b")
    add(store, 9, name="train")
    add(store, 10)


QUERIES: dict[str, tuple[JobQuery, list[int]]] = {
    "everything": (JobQuery(), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
    "a page": (JobQuery(page_size=3), [10, 9, 8]),
    "the next page": (JobQuery(page_size=3, before_id=8), [7, 6, 5]),
    "what is not over": (JobQuery(current_only=True), [10, 9, 8, 7]),
    "and the newest two that are": (
        JobQuery(current_only=True, recent_limit=2),
        [10, 9, 8, 7, 6, 5],
    ),
    "and more than there are": (
        JobQuery(current_only=True, recent_limit=50),
        [10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    ),
    "its second page": (
        JobQuery(current_only=True, recent_limit=2, page_size=4, before_id=7),
        [6, 5],
    ),
    "one active state": (JobQuery(states=frozenset({Running})), [7]),
    "two active states": (JobQuery(states=frozenset({Running, Queued})), [10, 9, 7]),
    "one final state": (JobQuery(states=frozenset({Lost})), [5]),
    "a mix of states": (JobQuery(states=frozenset({Paused, Lost, StartFailed})), [8, 6, 5]),
    "the newest ended": (
        JobQuery(states=frozenset({Ended}), current_only=True, recent_limit=1),
        [4],
    ),
    "a name": (JobQuery(name="train"), [9, 7, 5, 3, 1]),
    "a name and a state": (JobQuery(name="train", states=frozenset({Ended})), [3, 1]),
    "a name, current": (JobQuery(name="train", current_only=True, recent_limit=1), [9, 7, 5]),
    "a name nobody has": (JobQuery(name="nobody"), []),
    "a label": (JobQuery(labels={"team": "a"}), [7, 4, 3, 2, 1]),
    "two labels": (JobQuery(labels={"team": "a", "gpu": "0"}), [7]),
    "a label's other value": (JobQuery(labels={"team": "c"}), []),
    "name, label and state": (
        JobQuery(name="train", labels={"team": "a"}, states=frozenset({Ended})),
        [3, 1],
    ),
}


@pytest.mark.parametrize("row", QUERIES.values(), ids=QUERIES.keys())
def test_a_listing(store: Store, row: tuple[JobQuery, list[int]]) -> None:
    """One row: query, ids, newest first."""
    fill(store)
    query, expected = row

    assert ids(store, query) == expected


@pytest.mark.parametrize("page_size", [1, 3, 4, 10])
def test_pages_together_are_the_whole_listing(store: Store, page_size: int) -> None:
    """The cursor leads from page to page, and is 0 on the last."""
    fill(store)
    query, seen, before = JobQuery(current_only=True, recent_limit=3), [], 0
    whole = ids(store, query)
    while True:
        page = listing.list_jobs(
            store,
            JobQuery(current_only=True, recent_limit=3, page_size=page_size, before_id=before),
        )
        seen += [job.spec.id for job in page.jobs]
        before = page.next_before_id
        if not before:
            break

    assert seen == whole


def test_a_page_of_huge_jobs_is_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply cannot become too large for the wire, and is never empty."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 1)
    fill(store)

    page = listing.list_jobs(store, JobQuery())

    assert [job.spec.id for job in page.jobs] == [10]
    assert page.next_before_id == 10


@pytest.mark.parametrize("row", QUERIES.values(), ids=QUERIES.keys())
def test_a_listing_walks_an_index_in_order(store: Store, row: tuple[JobQuery, list[int]]) -> None:
    """No scan of the table and no sorting: the cost is that of the page."""
    for arm in listing.arms(row[0]):
        plan = store.connection.execute(
            f"EXPLAIN QUERY PLAN {arm.query}", (*arm.parameters, 0, 1 << 62, 20)
        ).fetchall()
        steps = [step[-1] for step in plan]

        assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], steps


COVERED = {
    "a submit's key": "SELECT id FROM jobs WHERE key = 'k'",
    "a mutation's key": "SELECT job_id FROM done_keys WHERE key = 'k'",
    "one job": "SELECT * FROM jobs WHERE id = 7",
    "what is not over": "SELECT * FROM jobs WHERE active = 1",
    "events of all": "SELECT * FROM events WHERE seq > 5 ORDER BY seq LIMIT 10",
    "events of one": "SELECT * FROM events WHERE job_id = 7 AND seq > 5 ORDER BY seq LIMIT 10",
    "labels of one": "SELECT * FROM labels WHERE job_id = 7",
}


@pytest.mark.parametrize("query", COVERED.values(), ids=COVERED.keys())
def test_a_lookup_is_covered_by_an_index(store: Store, query: str) -> None:
    """What is asked for often never scans."""
    steps = [row[-1] for row in store.connection.execute(f"EXPLAIN QUERY PLAN {query}")]

    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], steps


def test_a_history_of_100_000_does_not_slow_listing_down(paths: Paths) -> None:
    """`ls` takes milliseconds whatever lies behind."""
    store = open_store(paths)
    _insert_history(store, 100_000)
    add(store, 200_000, Running(HANDLE))
    query = JobQuery(current_only=True, recent_limit=20)

    best_s = min(_timed(lambda: ids(store, query)) for _ in range(5))

    assert len(ids(store, query)) == 21
    assert best_s < 0.01
    store.close()


def _insert_history(store: Store, count: int) -> None:
    add(store, 1, ENDED)
    store.connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO jobs SELECT i, 'k' || i, '', 0, kind, state, summary, grace_s, event_seq"
        " FROM n, jobs WHERE jobs.id = 1",
        (count,),
    )


def _timed(work: object) -> float:
    assert callable(work)
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


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


def history(paths: Paths) -> None:
    """Make jobs: 1 ended, 2 live, 3 without a spec, 4 with a torn exit, 5 with a torn spec."""
    jobdir.write_exit(make_directory(paths, make_spec(1, key="k1", name="train", team="a")), ENDED)
    make_directory(paths, make_spec(2, key="k2"))
    os.mkdir(paths.job(3))
    Path(make_directory(paths, make_spec(4)), "exit.json").write_bytes(b'{"version"')
    Path(make_directory(paths, make_spec(5)), "spec.json").write_bytes(b"\0\0\0")
    os.mkdir(f"{paths.jobs}/.rm-6")


def check_rebuilt(store: Store) -> None:
    """Everything in the directories is in the index."""
    first = store.get(1)
    assert first is not None
    assert (first.state, first.spec.name) == (ENDED, "train")
    assert [job.spec.id for job in store.active()] == [2, 4, 5]
    assert store.find_submit("k2") == 2
    assert ids(store, JobQuery(labels={"team": "a"})) == [1]
    assert store.get(3) is None


def test_a_missing_index_is_rebuilt(paths: Paths) -> None:
    """From the directories, said in the log, with nothing to set aside."""
    history(paths)

    with capture_logs() as logs:
        store = open_store(paths)

    check_rebuilt(store)
    (line,) = logs
    assert line["event"] == "store.rebuilt"
    assert line["set_aside"] is None
    counts = {k: line[k] for k in ("jobs", "active_jobs", "skipped", "corrupt")}
    assert counts == {"jobs": 4, "active_jobs": 3, "skipped": 1, "corrupt": 2}
    store.close()


def test_a_first_start_says_nothing(paths: Paths) -> None:
    """An empty state directory is no accident."""
    with capture_logs() as logs:
        open_store(paths).close()

    assert logs == []


def _truncate(database: str) -> None:
    os.truncate(database, os.path.getsize(database) // 2)


def _empty(database: str) -> None:
    os.truncate(database, 0)


def _fill_with_noise(database: str) -> None:
    size = os.path.getsize(database)
    Path(database).write_bytes(os.urandom(size))


def _spoil_the_middle(database: str) -> None:
    with open(database, "r+b") as file:
        file.seek(4096 + 8)
        file.write(os.urandom(3 * 4096))


def _not_a_database(database: str) -> None:
    Path(database).write_text("hello\n", encoding="ascii")


@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _fill_with_noise, _spoil_the_middle, _not_a_database]
)
def test_a_damaged_index_is_set_aside_and_rebuilt(paths: Paths, damage: object) -> None:
    """Never overwritten, said in the log; a second time under the next number."""
    history(paths)
    open_store(paths).close()
    for number in (1, 2):
        assert callable(damage)
        damage(paths.database)
        spoilt = Path(paths.database).read_bytes()

        with capture_logs() as logs:
            store = open_store(paths)

        check_rebuilt(store)
        store.close()
        aside = f"{paths.database}.corrupt-{number}"
        assert Path(aside).read_bytes() == spoilt
        assert [line["set_aside"] for line in logs] == [aside]


def test_a_leftover_log_without_its_database_is_set_aside(paths: Paths) -> None:
    """A write-ahead log of a deleted index is not played into the new one."""
    Path(f"{paths.database}-wal").write_bytes(b"stale")

    open_store(paths).close()

    assert Path(f"{paths.database}.corrupt-1-wal").read_bytes() == b"stale"


def test_a_crash_in_the_middle_of_a_rebuild_costs_nothing(paths: Paths) -> None:
    """What a rebuild had written so far is thrown away by the next."""
    history(paths)
    Path(f"{paths.database}.new").write_bytes(b"half")

    store = open_store(paths)

    check_rebuilt(store)
    store.close()
    assert not os.path.exists(f"{paths.database}.new")


def test_event_numbers_only_grow_across_a_rebuild(paths: Paths) -> None:
    """A cursor from before the rebuild is never ahead of the new events."""
    history(paths)
    store = open_store(paths)
    before = store.last_seq
    store.close()
    os.unlink(paths.database)

    again = open_store(paths)

    assert again.last_seq >= before > 0
    again.close()


def test_two_directories_with_one_key_are_both_kept(paths: Paths) -> None:
    """A directory copied by hand must not stop the rebuild."""
    make_directory(paths, make_spec(1, key="k1"))
    make_directory(paths, make_spec(2, key="k1"))

    store = open_store(paths)

    assert sorted(job.spec.id for job in store.active()) == [1, 2]
    assert store.find_submit("k1") in (1, 2)
    store.close()


def test_the_index_of_a_newer_agent_is_left_alone(paths: Paths) -> None:
    """One clear error; the file stays."""
    open_store(paths).close()
    with sqlite3.connect(paths.database) as connection:
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()

    with pytest.raises(AgentError, match="newer agent"):
        open_store(paths)

    assert not os.path.exists(f"{paths.database}.corrupt-1")


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
