"""Balancing the books: what the agent says of its jobs against what they really did."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from agentd.core.ending import signal_name
from agentd.core.job import Cause, Ended, FinalState, JobSpec, Lost, StartFailed
from agentd.system import jobdir
from tests.helpers.agent import Agent
from tests.helpers.wait import name_of, read_stat, wait_until

#: Processes of the agent itself, by the name that ps shows; "" has gone since it was listed.
_AGENT_NAMES = frozenset({"agentd-warden", "agentd-spawner", ""})


@dataclass(frozen=True, slots=True)
class Truth:
    """How a job really ended."""

    exit_code: int | None
    signal: str | None
    cause: str = "self"


def listed(agent: Agent) -> dict[int, dict[str, Any]]:
    """Return every job as `agentctl ls --all --json` lists it."""
    jobs = json.loads(agent.cli("ls", "--all", "--json", check=True).stdout)
    return {job["id"]: job for job in jobs}


def record_of(agent: Agent, job_id: int) -> FinalState | None:
    """Return the job's exit record."""
    return jobdir.read_exit(f"{agent.state_dir}/jobs/{job_id}")


def spec_of(agent: Agent, job_id: int) -> JobSpec:
    """Return what was asked for. Raises AssertionError: there is no such job."""
    spec = jobdir.read_spec(f"{agent.state_dir}/jobs/{job_id}")
    assert spec is not None, f"job {job_id} has no spec"
    return spec


def agrees(job: dict[str, Any], record: FinalState | None) -> bool:
    """Say whether the index tells the same end as the exit record."""
    shown = (job["state"], job["exit_code"], job["signal"], job["cause"])
    match record:
        case Ended():
            number = record.status.signal_number
            signal = None if number is None else signal_name(number)
            return shown == ("ended", record.status.exit_code, signal, record.cause)
        case Lost():
            return shown == ("lost", None, None, record.cause)
        case StartFailed():
            return shown == ("start_failed", None, None, record.cause)
        case None:
            return False


def told_truth(job: dict[str, Any], truth: Truth, *, may_be_lost: bool = False) -> bool:
    """Say whether a listed job tells its true end, or that it is lost where it may be."""
    if may_be_lost and job["state"] == "lost":
        return bool(job["cause"] == Cause.UNKNOWN)
    told = (job["state"], job["exit_code"], job["signal"], job["cause"])
    return told == ("ended", truth.exit_code, truth.signal, truth.cause)


def strays(agent: Agent) -> dict[int, str]:
    """Return the processes that belong to the agent's jobs: leaders, shims, what they left."""
    own = {agent.warden_pid(), agent.server_pid()}
    found = agent.processes()
    return {
        pid: line
        for pid, line in found.items()
        if pid not in own and name_of(pid) not in _AGENT_NAMES
    }


def is_frozen(pid: int) -> bool:
    """Say whether the process is stopped by a signal."""
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


def check_all_over(agent: Agent) -> dict[int, dict[str, Any]]:
    """Demand that nothing of any job is left but its directory, and that the index is right.

    Returns every job as it is listed.

    Raises:
        AssertionError: A process, a marker in live/, or an end that index and record tell apart.

    """
    jobs = listed(agent)
    wait_until(lambda: not os.listdir(f"{agent.state_dir}/live"), what="live/ is empty")
    wait_until(lambda: not strays(agent), what=f"no process of a job is left: {strays(agent)}")
    for job_id, job in jobs.items():
        record = record_of(agent, job_id)
        assert agrees(job, record), f"the index says {job}, the record {record}"
    return jobs
