"""Memory of what minds one job, with 200 jobs running."""

from __future__ import annotations

import statistics

from tests.bench.machine import pss_bytes
from tests.bench.rivals import conmons, is_installed, supervisord, task_spooler
from tests.bench.stage import Stage, running_agent
from tests.bench.table import Row
from tests.helpers.wait import wait_until

JOBS = 200
BUDGET_MB = 1.0
MB = 1_000_000


def measure(stage: Stage) -> list[Row]:
    """Return the mean PSS of a shim beside each rival's cost of one more job."""
    ours = _shim()
    theirs = {
        "conmon": _conmon(stage),
        "supervisord, growth a job": _supervisord(stage),
        "tsp, waiting client": _tsp(stage),
    }
    budget = f"<= {BUDGET_MB:.1f} MB"
    return [
        Row(f"PSS of one shim, {JOBS} jobs", ours, "MB", rival, figure, budget, ours <= BUDGET_MB)
        for rival, figure in theirs.items()
    ]


def _shim() -> float:
    with running_agent() as (agent, client):
        ids = [client.submit(["sleep", "3600"]).id for _ in range(JOBS)]
        wait_until(lambda: all(map(agent.shim_pid, ids)), deadline_s=60, what="every pidfile")
        return statistics.mean(pss_bytes(agent.shim_pid(job)) for job in ids) / MB


def _conmon(stage: Stage) -> float | None:
    if not is_installed("conmon"):
        return None
    with conmons(stage.fresh("conmon"), JOBS) as pids:
        return statistics.mean(map(pss_bytes, pids)) / MB


def _supervisord(stage: Stage) -> float | None:
    if not is_installed("supervisord"):
        return None
    sizes = []
    for jobs in (0, JOBS):
        with supervisord(stage.fresh("supervisord"), jobs) as daemon:
            sizes.append(pss_bytes(daemon.pid))
    return (sizes[1] - sizes[0]) / JOBS / MB


def _tsp(stage: Stage) -> float | None:
    if not is_installed("tsp"):
        return None
    with task_spooler(stage.fresh("tsp"), JOBS) as spooler:
        server = spooler.processes()
        for _ in range(JOBS):
            spooler.run("sleep", "3600")
        # Of each job: the client that waits, and below it the job itself.
        wait_until(
            lambda: len(spooler.processes()) >= len(server) + 2 * JOBS,
            deadline_s=60,
            what="tsp's jobs",
        )
        clients = [pid for pid in spooler.processes() - server if _is_tsp(pid)]
        return statistics.mean(map(pss_bytes, clients)) / MB


def _is_tsp(pid: int) -> bool:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read() == "tsp\n"
