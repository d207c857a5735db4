"""`wait`, `stop`, `kill`, `signal`, `pause`, `resume`, `rm`."""

from __future__ import annotations

import json
import os

from tests.helpers import jobs
from tests.helpers.agent import Agent
from tests.helpers.wait import is_alive, wait_until


def _sleeper(agent: Agent, *options: str) -> int:
    job_id = int(agent.cli("submit", *options, "--", "sleep", "600", check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what=f"job {job_id} runs")
    return job_id


def test_wait_exits_with_the_status(agent: Agent) -> None:
    """Of several, the first that is not 0, in the order given."""
    for code in (0, 7, 3):
        agent.cli("submit", "--", *jobs.exits(code), check=True)
    assert agent.cli("wait", "1").returncode == 0
    assert agent.cli("wait", "1", "2", "3").returncode == 7
    assert agent.cli("wait", "3", "2").returncode == 3
    for ids, codes in ((("2", "3"), [7, 3]), (("2",), [7])):
        waited = json.loads(agent.cli("wait", "--json", *ids).stdout)
        assert [job["exit_code"] for job in waited] == codes


def test_wait_gives_up_in_time(agent: Agent) -> None:
    """With 75 and a line; the job goes on."""
    job_id = _sleeper(agent)
    done = agent.cli("wait", "--timeout", "0.3s", str(job_id))
    assert done.returncode == 75
    assert done.stderr == f"agentctl: job {job_id} is not over after 0.3 s\n"
    assert agent.show(job_id)["state"] == "running"


def test_stop_returns_when_the_job_is_gone(agent: Agent) -> None:
    """And whatever it started with it."""
    job_id = _sleeper(agent)
    pid = agent.show(job_id)["pid"]
    assert agent.cli("stop", str(job_id), check=True).stdout == ""
    job = agent.show(job_id)
    assert (job["state"], job["signal"], job["cause"]) == ("ended", "SIGTERM", "user")
    assert not is_alive(pid)


def test_grace_ends_with_a_kill(agent: Agent) -> None:
    """A job that ignores SIGTERM gets the other one."""
    ready = f"{agent.home}/ready"
    agent.cli("submit", "--name", "deaf", "--", *jobs.term_ignorer(ready), check=True)
    wait_until(lambda: os.path.exists(ready), what="the job ignores SIGTERM")
    agent.cli("stop", "--grace", "0.2s", "deaf", check=True)
    assert agent.show("deaf")["signal"] == "SIGKILL"


def test_stop_without_waiting_returns_at_once(agent: Agent) -> None:
    """The ladder goes on alone."""
    ready = f"{agent.home}/ready"
    agent.cli("submit", "--name", "deaf", "--", *jobs.term_ignorer(ready), check=True)
    wait_until(lambda: os.path.exists(ready), what="the job ignores SIGTERM")
    shown = agent.cli("stop", "--no-wait", "--json", "--grace", "60s", "deaf", check=True).stdout
    assert [job["state"] for job in json.loads(shown)] == ["stopping"]
    agent.cli("kill", "deaf", check=True)
    assert agent.show("deaf")["signal"] == "SIGKILL"


def test_one_refusal_does_not_keep_the_others(agent: Agent) -> None:
    """Each job is tried; the exit code is the first refusal's."""
    agent.cli("run", "--", "true", check=True)
    second = _sleeper(agent)
    done = agent.cli("stop", "1", "77", str(second))
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["agentctl"] * 2
    assert agent.show(second)["state"] == "ended"


def test_a_signal_arrives_by_name_and_by_number(agent: Agent) -> None:
    """At the job's process group."""
    traps = "trap 'echo one' USR1; trap 'echo two; exit 5' USR2"
    line = f"{traps}; echo ready; while :; do sleep 0.05; done"
    agent.cli("submit", "--name", "ear", "-c", line, check=True)
    wait_until(lambda: agent.cli("logs", "ear").stdout == "ready\n", what="the traps are set")
    agent.cli("signal", "USR1", "ear", check=True)
    wait_until(lambda: "one" in agent.cli("logs", "ear").stdout, what="the signal arrived")
    agent.cli("signal", "12", "ear", check=True)
    assert agent.cli("wait", "ear").returncode == 5


def test_pause_and_resume(agent: Agent) -> None:
    """Frozen when the command returns, running when the other one does."""
    job_id = _sleeper(agent)
    shown = json.loads(agent.cli("pause", "--json", str(job_id), check=True).stdout)
    assert [job["state"] for job in shown] == ["paused"]
    agent.cli("resume", str(job_id), check=True)
    assert agent.show(job_id)["state"] == "running"


def test_rm_deletes_what_is_over_and_nothing_else(agent: Agent) -> None:
    """Output included; the id is not used again."""
    agent.cli("run", "--", "echo", "x", check=True)
    running = _sleeper(agent)
    assert agent.cli("rm", str(running)).returncode == 1
    agent.cli("rm", "1", check=True)
    assert agent.cli("show", "1").returncode == 1
    assert not os.path.exists(f"{agent.state_dir}/jobs/1")
    agent.cli("kill", str(running), check=True)
    agent.cli("rm", str(running), check=True)
    assert agent.cli("submit", "--", "true").stdout == "3\n"


def test_timeout_stops_a_job(agent: Agent) -> None:
    """And the cause says so."""
    done = agent.cli("run", "--timeout", "0.3s", "--", "sleep", "600")
    assert (done.returncode, done.stderr) == (143, "agentctl: job 1: SIGTERM timeout\n")
    assert agent.cli("wait", "1").stderr == done.stderr
    assert agent.show(1)["cause"] == "timeout"
