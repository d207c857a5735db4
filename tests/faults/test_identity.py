"""Recycled pids, another boot, a clock set back: nobody else is hit, nothing is guessed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.core.job import Ended
from tests.faults.court import Court
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.wait import read_stat, wait_until
from tests.helpers.witness import Way

_HOUR_NS = 3600 * 10**9


@pytest.fixture(name="foreign")
def _foreign() -> Iterator[int]:
    """Yield the pid of a process that is nobody's job, and demand that nobody signalled it."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        assert process.poll() is None, "it was killed"
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.state != "T", "it was stopped"
        process.kill()


def _edit_pidfile(agent: Agent, job_id: int, change: Callable[[dict[str, Any]], None]) -> None:
    path = Path(f"{agent.state_dir}/jobs/{job_id}/pid")
    body = json.loads(path.read_bytes())
    change(body)
    with open(path, "r+b") as file:
        file.write(json.dumps(body).encode().ljust(1024))


def _running(court: Court, way: Way = Way.EXITS) -> int:
    job_id = court.submit(way)
    court.wait_runs(job_id)
    return job_id


def _kill_everything_of(court: Court, job_id: int) -> None:
    agent = court.agent
    leader = agent.leader_pid(job_id)
    agent.kill(agent.warden_pid(), agent.server_pid(), agent.shim_pid(job_id))
    agent.kill(*{leader, *books.strays(agent)})


def test_a_recycled_leader_is_not_the_leader(court: Court, foreign: int) -> None:
    """Its pid lives, with another start time: the job is lost, and nobody is stopped for it."""
    job_id = _running(court, Way.STOPPED)
    _kill_everything_of(court, job_id)
    _edit_pidfile(court.agent, job_id, lambda body: body["leader"].update(pid=foreign))

    job = court.agent.show(job_id)

    assert (job["state"], job["cause"]) == ("lost", "unknown")
    with court.agent.client() as client:
        assert client.get(job_id).surviving_pids == ()
    assert court.agent.cli("stop", "--grace", "0", str(job_id)).returncode == 1
    court.excused.add(job_id)
    court.judge()


def test_a_recycled_shim_is_not_a_shim(court: Court, foreign: int) -> None:
    """Its pid lives on as somebody else: the job is taken over all the same."""
    job_id = _running(court)
    agent = court.agent
    agent.kill(agent.warden_pid(), agent.server_pid(), agent.shim_pid(job_id))
    _edit_pidfile(agent, job_id, lambda body: body["shim"].update(pid=foreign))

    assert court.state(job_id) == "running"
    court.bring_to_end(job_id)
    court.judge()


def test_another_boot_is_another_world(court: Court, foreign: int) -> None:
    """A pidfile from before the restart: the cause says so, and its pids mean nothing."""
    job_id = _running(court, Way.STOPPED)
    _kill_everything_of(court, job_id)

    def reboot(body: dict[str, Any]) -> None:
        identity = Path(f"/proc/{foreign}/stat").read_text(encoding="ascii").rpartition(") ")[2]
        body["boot_id"] = "00000000-0000-0000-0000-000000000000"
        body["leader"] = {"pid": foreign, "start_ticks": int(identity.split()[19])}

    _edit_pidfile(court.agent, job_id, reboot)

    job = court.agent.show(job_id)

    assert (job["state"], job["cause"]) == ("lost", "reboot")
    assert "restarted" in job["reason"]
    assert court.agent.cli("stop", "--grace", "0", str(job_id)).returncode == 1
    books.check_all_over(court.agent)


def test_a_clock_that_was_set_back_changes_no_duration(court: Court) -> None:
    """A job that seems to start an hour from now: how long it ran is told right."""
    job_id = _running(court)
    agent = court.agent

    def set_back(body: dict[str, Any]) -> None:
        body["started_at_ns"] += _HOUR_NS

    _edit_pidfile(agent, job_id, set_back)
    agent.kill(agent.shim_pid(job_id))
    court.bring_to_end(job_id)

    final = books.record_of(agent, job_id)

    assert isinstance(final, Ended)
    assert final.ended_at_ns < final.started_at_ns
    assert final.duration_ns is not None
    assert 0 < final.duration_ns < 60 * 10**9
    assert not re.search(r"\s-\d", agent.cli("ls", check=True).stdout)
    court.judge()


@pytest.mark.parametrize("shift_ns", [_HOUR_NS, -_HOUR_NS], ids=["back", "forward"])
def test_a_clock_that_was_set_moves_no_timeout(agent: Agent, shift_ns: int) -> None:
    """It counts what has passed, not what the clock on the wall says."""
    job_id = int(agent.cli("submit", "--timeout", "2s", "--", "sleep", "600", check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="it runs")

    def shift(body: dict[str, Any]) -> None:
        body["started_at_ns"] += shift_ns

    _edit_pidfile(agent, job_id, shift)
    agent.kill(agent.shim_pid(job_id))

    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 128 + 15

    final = books.record_of(agent, job_id)
    assert isinstance(final, Ended)
    assert final.duration_ns is not None
    assert 1.9e9 < final.duration_ns < 4e9
    assert agent.show(job_id)["cause"] == "timeout"
