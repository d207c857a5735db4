"""Two processes killed at one named point; then the books."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.court import Court
from tests.faults.test_crash_points import SERVER, SHIM_EARLY, SHIM_LATE, SHIM_STOP, WARDEN
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until
from tests.helpers.witness import Way

#: With shim and warden dead once the leader has ended, its status is gone with its zombie.
_STATUS_GONE = frozenset({"shim.leader_exited", "shim.drained", "shim.record_written"})
_AT_THE_END = frozenset({*_STATUS_GONE, "shim.recorded"})
#: Passed once in a job's life; a rescue shim comes later.
_BY_THE_FIRST = frozenset({"shim.gate_opened", "shim.executed"})


@pytest.mark.parametrize("point", [*SERVER, *WARDEN])
def test_server_and_warden(court: Court, point: str) -> None:
    """Nothing of the agent is left; the next command starts another, which knows it all."""
    court.agent.start()
    server, warden = court.agent.server_pid(), court.agent.warden_pid()
    court.agent.crash_at(point, warden if point in SERVER else server)
    court.run(Way.EXITS)
    assert court.agent.crashed(point)
    court.judge()


@pytest.mark.parametrize("point", [*SHIM_EARLY, *SHIM_LATE])
def test_shim_and_server(court: Court, point: str) -> None:
    """The warden takes over from the one and starts the other."""
    court.agent.start()
    court.agent.crash_at(point, court.agent.server_pid())
    court.run(Way.EXITS)
    assert court.agent.crashed(point)
    court.judge()


@pytest.mark.parametrize("point", [*SHIM_EARLY, *SHIM_LATE])
def test_shim_and_warden(court: Court, point: str) -> None:
    """Nobody holds the job's pipes; it is told right all the same, or that nobody can know."""
    court.agent.start()
    court.agent.crash_at(point, court.agent.warden_pid())
    job_id = court.submit(Way.EXITS)
    if point not in _AT_THE_END:
        wait_until(lambda: court.agent.crashed(point), what="both were killed")
        # Somebody looks: there is an agent again before the leader ends.
        court.state(job_id)
    court.wait_runs(job_id)
    court.bring_to_end(job_id)
    assert court.agent.crashed(point)
    if point in _STATUS_GONE:
        court.excused.add(job_id)
    court.judge()


@pytest.mark.parametrize("point", SHIM_STOP)
def test_shim_and_warden_in_a_stop(court: Court, point: str) -> None:
    """The stop goes on under the next warden; a job that ended meanwhile may be lost."""
    court.agent.start()
    court.agent.crash_at(point, court.agent.warden_pid())
    job_id = court.run(Way.STOPPED)
    assert court.agent.crashed(point)
    if point == "shim.terminated":
        court.excused.add(job_id)
    court.judge()


@pytest.mark.parametrize("point", [p for p in SHIM_LATE if p not in _BY_THE_FIRST])
def test_shim_and_its_rescue(court: Court, point: str) -> None:
    """A rescue shim is killed at the point; a second one follows."""
    job_id = court.submit(Way.EXITS)
    court.wait_runs(job_id)
    first = court.agent.shim_pid(job_id)
    court.agent.crash_at(point)
    court.agent.kill(first)
    court.bring_to_end(job_id)
    assert court.agent.crashed(point)
    court.judge()


def test_one_shim_after_another(court: Court) -> None:
    """Ten rescue shims killed as fast as they come cost nothing."""
    job_id = court.submit(Way.EXITS)
    court.wait_runs(job_id)
    last = court.agent.shim_pid(job_id)
    for _ in range(10):
        court.agent.kill(last)
        killed = last
        last = wait_until(
            lambda: (pid := court.agent.show(job_id)["shim_pid"]) != killed and pid,  # noqa: B023  # called at once
            what="another shim",
        )
    court.bring_to_end(job_id)
    court.judge()


#: A process 1 that never reaps: starts the agent, and then waits for nobody.
_DEAF_INIT = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
subprocess.run(["agentctl", "agent", "start"], check=True)
time.sleep(600)
"""


def test_shim_and_warden_below_an_init_that_reaps_nobody(court: Court) -> None:
    """As in many a container: the leader stays a zombie, and its end is told all the same."""
    agent = court.agent
    with _process([sys.executable, "-c", _DEAF_INIT], agent):
        wait_until(agent.warden_pid, what="the agent below it")
        job_id = court.submit(Way.EXITS)
        court.wait_runs(job_id)
        agent.kill(agent.warden_pid(), agent.shim_pid(job_id))
        # Somebody looks: there is an agent again before the leader ends.
        court.state(job_id)
        court.bring_to_end(job_id)
    court.judge()


@contextmanager
def _process(argv: list[str], agent: Agent) -> Iterator[None]:
    """Run a program until the end of the block, which kills it."""
    with subprocess.Popen(argv, env=agent.env, cwd=agent.home) as process:
        try:
            yield
        finally:
            process.kill()
