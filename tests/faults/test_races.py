"""Races and odd circumstances that a review found: each was seen to fail before it was mended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.helpers.agent import Agent
from tests.helpers.wait import is_alive, read_stat, wait_gone, wait_until

#: Forks and ends, again and again, until the file is there: no look ever finds the whole tree.
_CHAIN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
until = time.monotonic() + 20
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(0.001)
"""


def _submit(agent: Agent, *args: str) -> int:
    return int(agent.cli("submit", *args, check=True).stdout)


def _wait_runs(agent: Agent, job_id: int) -> None:
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="the job runs")


def _is_frozen(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


def test_a_tree_that_forks_and_ends_all_the_time_does_not_escape_its_job(agent: Agent) -> None:
    """The job is over only when the last of the chain is gone."""
    trace = Path(agent.root) / "last"
    chain = [sys.executable, "-c", _CHAIN, str(trace)]

    assert agent.cli("run", "--grace", "0.2s", "--", *chain).returncode == 0

    assert not is_alive(int(trace.read_text() or "0"))


def test_a_stop_that_a_killed_shim_never_read_is_obeyed_by_the_rescue_shim(agent: Agent) -> None:
    """It was promised to the user; the job ends by it."""
    job_id = _submit(agent, "--", "sleep", "600")
    _wait_runs(agent, job_id)
    shim = agent.shim_pid(job_id)
    os.kill(shim, signal.SIGSTOP)
    wait_until(lambda: _is_frozen(shim), what="the shim is frozen")
    agent.cli("stop", "--no-wait", str(job_id), check=True)

    agent.kill(shim)

    assert agent.cli("wait", str(job_id)).returncode == 128 + signal.SIGTERM
    assert agent.show(job_id)["cause"] == "user"


def test_a_job_that_ended_by_itself_was_not_ended_by_its_timeout(agent: Agent) -> None:
    """The shim was frozen meanwhile and sees both at once."""
    gate = Path(agent.root) / "gate"
    os.mkfifo(gate)
    job_id = _submit(agent, "--timeout", "2s", "--", "sh", "-c", f"read x < {gate}; exit 0")
    _wait_runs(agent, job_id)
    shim, leader = agent.shim_pid(job_id), agent.leader_pid(job_id)
    os.kill(shim, signal.SIGSTOP)
    gate.write_text("go\n")
    wait_gone({leader}, what="the leader has ended")
    started_at = datetime.fromisoformat(agent.show(job_id)["started_at"])
    wait_until(lambda: (datetime.now(UTC) - started_at).total_seconds() > 2.1, what="the timeout")
    os.kill(shim, signal.SIGCONT)

    assert agent.cli("wait", str(job_id)).returncode == 0
    assert agent.show(job_id)["cause"] == "self"


def test_an_agent_that_a_job_starts_outlives_that_job(agent: Agent) -> None:
    """With its jobs: it belongs to the user."""
    agentctl = Path(sys.executable).parent / "agentctl"
    script = f"{agentctl} agent stop && {agentctl} submit -- sleep 600"

    assert agent.cli("run", "--grace", "0.2s", "-c", script).returncode == 0

    inner = max(int(name) for name in os.listdir(f"{agent.state_dir}/jobs") if name.isdigit())
    assert agent.show(inner)["state"] == "running"
    agent.cli("kill", str(inner), check=True)


def test_an_agent_started_with_signals_blocked_restarts_its_server(agent: Agent) -> None:
    """A blocked SIGCHLD would tell it of nobody's end."""
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD}); "
        "os.execv(sys.executable, [sys.executable, '-P', '-m', 'agentd', 'start'])"
    )
    subprocess.run([sys.executable, "-c", code], env=agent.env, check=True)
    server = agent.server_pid()

    agent.kill(server)

    wait_until(lambda: agent.server_pid() not in {0, server}, what="another server")
    assert agent.cli("ls").returncode == 0


def test_a_frozen_server_goes_with_its_warden(agent: Agent) -> None:
    """It would keep socket and index from the next one."""
    agent.start()
    server, warden = agent.server_pid(), agent.warden_pid()
    os.kill(server, signal.SIGSTOP)

    agent.kill(warden)

    wait_gone({server}, what="the frozen server")
    assert agent.cli("ls").returncode == 0


def test_a_directory_that_was_put_back_by_hand_is_left_alone(agent: Agent) -> None:
    """The next job takes the next id."""
    agent.start()
    found = Path(agent.state_dir) / "jobs" / "1"
    found.mkdir(mode=0o700)
    (found / "kept").write_text("mine")

    assert _submit(agent, "--", "true") == 2

    assert (found / "kept").read_text() == "mine"
