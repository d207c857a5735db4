"""Listing jobs: what a page holds and what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    LeaderHandle,
    Lost,
    Paused,
    ProcessId,
    Queued,
    ResourceUsage,
    Running,
    StartFailed,
    Starting,
    State,
    Stopping,
)
from agentd.paths import Paths
from agentd.server.runtime import codec, listing
from agentd.server.runtime.model import JobQuery
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.store import Note, Store
from tests.unit.agentd.server.places import ENDED, make_paths, make_spec

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
