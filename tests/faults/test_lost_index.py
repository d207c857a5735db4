"""jobs.db deleted, cut off or overwritten while the agent is down: rebuilt from jobs/."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.court import Court
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.clients import answer, client_with_key
from tests.helpers.unstartable import submit_unstartable
from tests.helpers.wait import wait_until
from tests.helpers.witness import Way


def _delete(database: Path) -> None:
    for path in database.parent.glob("jobs.db*"):
        path.unlink()


def _delete_alone(database: Path) -> None:
    database.unlink()


def _cut_off(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def _empty(database: Path) -> None:
    os.truncate(database, 0)


def _overwrite(database: Path) -> None:
    database.write_bytes(random.Random(1).randbytes(database.stat().st_size))


def _spoil_pages(database: Path) -> None:
    with open(database, "r+b") as file:
        for page in range(1, database.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(4096))


_DAMAGES = (_delete, _delete_alone, _cut_off, _empty, _overwrite, _spoil_pages)


def _stop_agent(agent: Agent) -> Path:
    # Not by SIGKILL: the log of SQLite is then part of the file, and the damage hits all of it.
    agent.cli("agent", "stop", check=True)
    wait_until(lambda: not agent.warden_pid(), what="the agent is down")
    return Path(agent.state_dir, "jobs.db")


def _without_times(jobs: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {job_id: {**job, "log_bytes": None} for job_id, job in jobs.items()}


@pytest.mark.parametrize("damage", _DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_it_is_rebuilt(court: Court, damage: Callable[[Path], None]) -> None:
    """Every job as before, running ones too; the damaged file is kept, and the log says so."""
    agent = court.agent
    ended = [court.run(way) for way in (Way.EXITS, Way.DIES)]
    broken, _ = submit_unstartable(agent, "--name", "broken", "--label", "a=b")
    agent.cli("wait", str(broken))
    running = court.submit(Way.EXITS)
    court.wait_runs(running)
    before = books.listed(agent)
    database = _stop_agent(agent)
    damage(database)
    was_there = database.exists()

    after = books.listed(agent)

    assert _without_times(after) == _without_times(before)
    assert [agent.cli_bytes("logs", str(i)) for i in ended] == [
        court.witness(i).output for i in ended
    ]
    assert "store.rebuilt" in agent.log()
    assert bool(list(Path(agent.state_dir).glob("jobs.db.corrupt-*"))) == was_there
    assert court.run(Way.EXITS) == max(before) + 1
    court.bring_to_end(running)
    assert agent.show("broken")["state"] == "start_failed"
    court.judge()


def test_the_log_of_sqlite_alone_is_lost(court: Court) -> None:
    """After a SIGKILL the newest rows stand in jobs.db-wal only."""
    agent = court.agent
    ended = court.run(Way.EXITS)
    running = court.submit(Way.EXITS)
    court.wait_runs(running)
    agent.kill(agent.warden_pid(), agent.server_pid())
    Path(agent.state_dir, "jobs.db-wal").unlink()

    after = books.listed(agent)

    assert {job_id: job["state"] for job_id, job in after.items()} == {
        ended: "ended",
        running: "running",
    }
    court.bring_to_end(running)
    court.judge()


@pytest.mark.parametrize("damage", [_delete, _overwrite], ids=["deleted", "noise"])
def test_no_id_is_given_twice(agent: Agent, damage: Callable[[Path], None]) -> None:
    """Not even that of the newest job, removed before the index was lost."""
    for _ in range(3):
        agent.cli("run", "--", "true", check=True)
    agent.cli("rm", "3", "2", check=True)
    damage(_stop_agent(agent))

    assert agent.cli("submit", "--", "true", check=True).stdout == "4\n"
    assert sorted(books.listed(agent)) == [1, 4]


def test_a_key_is_known_after_the_index_was_lost(court: Court) -> None:
    """The job's directory holds it too: a client that asks again gets the same job."""
    agent = court.agent
    witness = court.make(Way.EXITS)
    job_id = answer(client_with_key(agent, "one", witness.argv))
    court.take(job_id, witness)
    court.wait_runs(job_id)
    _delete(_stop_agent(agent))

    assert answer(client_with_key(agent, "one", witness.argv)) == job_id

    court.bring_to_end(job_id)
    court.judge()


def test_damage_under_a_running_agent(court: Court) -> None:
    """Noticed at the latest by the next agent; no job is touched by it."""
    agent = court.agent
    running = court.submit(Way.EXITS)
    court.wait_runs(running)
    _overwrite(Path(agent.state_dir, "jobs.db"))
    agent.kill(agent.server_pid())

    wait_until(lambda: agent.cli("show", str(running)).returncode == 0, what="it is known again")

    court.bring_to_end(running)
    court.judge()
