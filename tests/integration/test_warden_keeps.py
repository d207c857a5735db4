"""What the warden keeps, and what it does not: descriptors, zombies, and a pause."""

from __future__ import annotations

import os
import signal

from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.processes import children_of
from tests.helpers.wait import is_alive, name_of, read_stat, wait_until


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _submit(agent: Agent, *argv: str) -> int:
    job_id = int(agent.cli("submit", "--", *argv, check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what=f"job {job_id} runs")
    return job_id


def _rescue(agent: Agent, job_id: int) -> None:
    shim = agent.show(job_id)["shim_pid"]
    agent.kill(shim)
    wait_until(lambda: agent.show(job_id)["shim_pid"] not in {shim, None}, what="a rescue shim")


def _zombies_below(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(word) for word in file.read().split()]
    return [child for child in children if (stat := read_stat(child)) and stat.is_dead]


def test_nothing_is_kept_of_a_job_that_is_over(agent: Agent) -> None:
    """A hundred jobs and ten killed shims later: as many descriptors as before, no zombie."""
    with agent.client() as client:
        client.wait(client.submit(["true"]).id)
        warden, server = agent.warden_pid(), agent.server_pid()
        before = (_descriptors(warden), _descriptors(server))
        sleepers = [client.submit(["sleep", "600"]).id for _ in range(10)]
        for job_id in sleepers:
            wait_until(lambda: agent.shim_pid(job_id), what="its shim")  # noqa: B023  # called at once
            os.kill(agent.shim_pid(job_id), signal.SIGKILL)
        short = [client.submit(["true"]).id for _ in range(100)]
        for job_id in sleepers:
            client.kill(job_id)
        assert {client.wait(job_id).exit_status for job_id in sleepers} == {128 + 9}
        assert {client.wait(job_id).exit_code for job_id in short} == {0}
        wait_until(
            lambda: _descriptors(warden) <= before[0] and _descriptors(server) <= before[1] + 2,
            what=f"as many descriptors as before, {before}",
        )
    wait_until(lambda: not _zombies_below(warden), what="no zombie below the warden")
    assert (agent.warden_pid(), agent.server_pid()) == (warden, server)
    books.check_all_over(agent)


def test_a_pause_outlives_shim_and_agent(agent: Agent) -> None:
    """Whoever minds the job next knows that it is paused, and can let it go on."""
    job_id = _submit(agent, "sh", "-c", "while :; do sleep 0.05; done")
    agent.cli("pause", str(job_id), check=True)
    _rescue(agent, job_id)
    assert agent.show(job_id)["state"] == "paused"
    agent.kill(agent.warden_pid(), agent.server_pid())
    assert agent.show(job_id)["state"] == "paused"
    leader = agent.leader_pid(job_id)
    stat = read_stat(leader)
    assert stat is not None
    assert stat.state == "T"
    agent.cli("resume", str(job_id), check=True)
    assert agent.show(job_id)["state"] == "running"
    wait_until(lambda: (s := read_stat(leader)) and s.state != "T", what="it goes on")


def test_a_killed_spawner_is_replaced(agent: Agent) -> None:
    """The next job starts as if nothing had been, and the warden is the same."""
    _submit(agent, "sleep", "600")
    warden = agent.warden_pid()
    (spawner,) = [pid for pid in children_of(warden) if name_of(pid) == "agentd-spawner"]
    agent.kill(spawner)
    assert agent.cli("run", "-c", "exit 3").returncode == 3
    assert agent.warden_pid() == warden
    assert is_alive(agent.shim_pid(1))


def test_sigterm_ends_the_agent_and_no_job(agent: Agent) -> None:
    """The server drains first; the next agent finds the job where it was."""
    job_id = _submit(agent, "sleep", "600")
    warden, server, shim = agent.warden_pid(), agent.server_pid(), agent.shim_pid(job_id)
    os.kill(warden, signal.SIGTERM)
    wait_until(lambda: not is_alive(warden) and not is_alive(server), what="both have ended")
    assert is_alive(shim)
    assert "server.ended" in agent.log()
    assert agent.show(job_id)["shim_pid"] == shim


def test_the_signals_of_a_logout_are_not_the_agents(agent: Agent) -> None:
    """SIGHUP to warden, server and shim changes nothing."""
    job_id = _submit(agent, "sleep", "600")
    pids = (agent.warden_pid(), agent.shim_pid(job_id))
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
    assert agent.cli("run", "-c", "exit 2").returncode == 2
    assert (agent.warden_pid(), agent.shim_pid(job_id)) == pids


def test_a_server_that_ends_again_and_again_is_started_again(agent: Agent) -> None:
    """After ever longer pauses; a job and its shim never notice."""
    job_id = _submit(agent, "sleep", "600")
    shim = agent.shim_pid(job_id)
    for _ in range(4):
        agent.kill(wait_until(agent.server_pid, what="a server"))
    assert agent.show(job_id)["state"] == "running"
    assert agent.shim_pid(job_id) == shim
