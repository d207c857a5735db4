"""What a long history costs: submits beside 10,000 ended jobs, `ls` with 100,000."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentd.core.job import Cause, Ended, ExitStatus, JobSpec, ResourceUsage
from agentd.server.runtime import schema
from agentd.server.runtime.store import insert_job
from agentd.system import records
from tests.bench.stage import Stage, cold_agent, running_agent
from tests.bench.table import Row, median_of
from tests.helpers.agent import Agent

if TYPE_CHECKING:
    from agentctl import Client

ENDED_JOBS = 10_000
LISTED_JOBS = 100_000
SUBMITS = 100
LISTINGS = 11
BUDGET_RATIO = 1.2
BUDGET_LS_MS = 200
#: https://github.com/Nukesor/pueue/issues/573: 500 adds into 0 and into 2,000 tasks, ms each.
PUEUE_GROWTH = 24.5 / 4.6


def measure(_stage: Stage) -> list[Row]:
    """Return submit with and without a history, and `ls` with a long one."""
    with running_agent() as (_, empty), _agent_with(ENDED_JOBS) as (_, full):
        fresh_ms, aged_ms = _submits_ms(empty, full)
    with running_agent() as (agent, _):
        short_ms = median_of(LISTINGS, lambda: _ls_ms(agent))
    with _agent_with(LISTED_JOBS) as (agent, _):
        long_ms = median_of(LISTINGS, lambda: _ls_ms(agent))
    growth = aged_ms / fresh_ms
    return [
        Row(
            f"submit beside {ENDED_JOBS} ended jobs",
            aged_ms,
            "ms",
            "empty store",
            fresh_ms,
            f"<= {BUDGET_RATIO} x",
            growth <= BUDGET_RATIO,
        ),
        Row("the same as growth", growth, "x", "pueue 3.4, published", PUEUE_GROWTH),
        Row(
            f"agentctl ls, {LISTED_JOBS} jobs in history",
            long_ms,
            "ms",
            "empty history",
            short_ms,
            f"<= {BUDGET_LS_MS} ms",
            long_ms <= BUDGET_LS_MS,
        ),
    ]


def _submits_ms(*clients: Client) -> list[float]:
    """Return the median of each client's submits, taken in turns."""
    taken: list[list[float]] = [[] for _ in clients]
    for _ in range(SUBMITS):
        for client, samples in zip(clients, taken, strict=True):
            began_s = time.monotonic()
            job = client.submit(["true"])
            samples.append(1000 * (time.monotonic() - began_s))
            client.wait(job.id)
    return [statistics.median(samples) for samples in taken]


def _ls_ms(agent: Agent) -> float:
    began_s = time.monotonic()
    agent.cli("ls", check=True)
    return 1000 * (time.monotonic() - began_s)


@contextmanager
def _agent_with(jobs: int) -> Iterator[tuple[Agent, Client]]:
    with cold_agent() as agent:
        _write_history(agent, jobs)
        agent.start()
        with agent.client() as client:
            assert client.agent_info().total_jobs == jobs
            yield agent, client


def _write_history(agent: Agent, jobs: int) -> None:
    """Make index and directories as `jobs` ended jobs leave them."""
    os.makedirs(f"{agent.state_dir}/jobs", mode=0o700)
    connection = schema.create(f"{agent.state_dir}/jobs.db")
    connection.execute("BEGIN")
    final = Ended(
        1_700_000_000_000_000_000,
        1_700_000_060_000_000_000,
        60_000_000_000,
        ExitStatus(0),
        Cause.SELF,
        ResourceUsage(1.0, 0.1, 10_000_000),
    )
    for number in range(1, jobs + 1):
        spec = _spec(number)
        insert_job(connection, spec, final, number)
        _write_directory(f"{agent.state_dir}/jobs/{number}", spec, final)
    connection.execute("COMMIT")
    connection.close()


def _spec(number: int) -> JobSpec:
    return JobSpec(
        id=number,
        uid=f"{number:032x}",
        idempotency_key=f"{number:032x}",
        submitted_at_ns=1_700_000_000_000_000_000,
        argv=("python", "train.py", "--seed", str(number)),
        cwd="/tmp",
        environment={"PATH": os.defpath},
        name=f"train-{number}",
    )


def _write_directory(directory: str, spec: JobSpec, final: Ended) -> None:
    os.mkdir(directory, 0o700)
    contents = {
        "spec.json": records.dump_spec(spec),
        "exit.json": records.dump_exit(final),
        f"out-{0:020d}.log": b"epoch 1/1\n",
    }
    for name, data in contents.items():
        with open(f"{directory}/{name}", "wb") as file:
            file.write(data)
