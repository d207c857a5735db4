"""Orders that were taken and not yet carried out when their taker was killed."""

from __future__ import annotations

import os
import signal

from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until


def _running(agent: Agent) -> int:
    job_id = int(agent.cli("submit", "--", "sleep", "600", check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="the job runs")
    return job_id


def _check_stopped(agent: Agent, job_id: int) -> None:
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 128 + 15
    assert agent.show(job_id)["cause"] == "user"
    books.check_all_over(agent)


def test_a_stop_that_its_shim_never_read(agent: Agent) -> None:
    """The rescue shim is told again."""
    job_id = _running(agent)
    shim = agent.shim_pid(job_id)
    # It takes nothing from its socket any more, and dies with what is in there.
    os.kill(shim, signal.SIGSTOP)
    agent.cli("stop", "--no-wait", str(job_id), check=True)
    agent.kill(shim)
    _check_stopped(agent, job_id)


def test_a_stop_that_the_warden_never_read(agent: Agent) -> None:
    """The next server finds in its index that it was promised."""
    job_id = _running(agent)
    warden = agent.warden_pid()
    os.kill(warden, signal.SIGSTOP)
    agent.cli("stop", "--no-wait", str(job_id), check=True)
    agent.kill(warden)
    _check_stopped(agent, job_id)


def test_a_stop_that_nobody_read(agent: Agent) -> None:
    """Server, warden and shim: all who knew of it are killed."""
    job_id = _running(agent)
    warden, server, shim = agent.warden_pid(), agent.server_pid(), agent.shim_pid(job_id)
    os.kill(warden, signal.SIGSTOP)
    agent.cli("stop", "--no-wait", str(job_id), check=True)
    agent.kill(warden, server, shim)
    _check_stopped(agent, job_id)


def test_a_launch_that_the_warden_never_read(agent: Agent) -> None:
    """The job was accepted, so it runs, once."""
    agent.start()
    warden = agent.warden_pid()
    ran = f"{agent.root}/ran"
    os.kill(warden, signal.SIGSTOP)
    job_id = int(agent.cli("submit", "-c", f"echo ran >>{ran}; exit 3", check=True).stdout)
    agent.kill(warden)
    assert agent.cli("wait", "--timeout", "15s", str(job_id)).returncode == 3
    with open(ran, encoding="ascii") as file:
        assert file.read() == "ran\n"
    books.check_all_over(agent)


def test_a_stop_of_a_job_that_was_never_launched(agent: Agent) -> None:
    """Both orders were lost together: the program never runs."""
    agent.start()
    warden = agent.warden_pid()
    ran = f"{agent.root}/ran"
    os.kill(warden, signal.SIGSTOP)
    job_id = int(agent.cli("submit", "-c", f"echo ran >>{ran}; sleep 600", check=True).stdout)
    agent.cli("stop", "--no-wait", str(job_id), check=True)
    agent.kill(warden)
    done = agent.cli("wait", "--timeout", "15s", str(job_id))
    job = agent.show(job_id)
    assert done.returncode != 75, job
    assert job["cause"] == "user"
    assert not os.path.exists(ran)
    books.check_all_over(agent)


def test_a_pause_that_its_shim_never_read_is_not_confirmed(agent: Agent) -> None:
    """The command ends in time, and tells the state as it is."""
    job_id = _running(agent)
    shim = agent.shim_pid(job_id)
    os.kill(shim, signal.SIGSTOP)
    with agent.popen("pause", str(job_id)) as pausing:
        # No sign tells when the order lies in the shim's socket; too early is as good a test.
        agent.kill(shim)
        pausing.wait(20)
    state = agent.show(job_id)["state"]
    assert state == ("paused" if books.is_frozen(agent.leader_pid(job_id)) else "running")
