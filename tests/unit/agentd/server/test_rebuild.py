"""The index, missing or damaged, made anew from the job directories."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.errors import AgentError
from agentd.paths import Paths
from agentd.server.runtime import listing, schema
from agentd.server.runtime.model import JobQuery
from agentd.server.runtime.rebuild import open_store
from agentd.server.runtime.store import Store
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


def ids(store: Store, query: JobQuery) -> list[int]:
    """Return the ids of one page."""
    return [job.spec.id for job in listing.list_jobs(store, query).jobs]


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
