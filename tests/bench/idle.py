"""What the agent costs while nothing happens."""

from __future__ import annotations

import time

from tests.bench.machine import cpu_ns, pss_bytes
from tests.bench.rivals import is_installed, supervisord
from tests.bench.stage import Stage, running_agent
from tests.bench.table import Row
from tests.helpers.wait import wait_until

WINDOW_S = 20
SETTLE_S = 3
MB = 1_000_000
#: Jobs asleep, and what of a core the agent may use then, in percent.
CPU_BUDGETS = {0: 0.2, 100: 0.5}
SERVER_BUDGET_MB = 80
WARDEN_BUDGET_MB = 15


def measure(stage: Stage) -> list[Row]:
    """Return processor time and memory, with and without sleeping jobs."""
    return [row for jobs, budget in CPU_BUDGETS.items() for row in _with(stage, jobs, budget)]


def _with(stage: Stage, jobs: int, cpu_budget: float) -> list[Row]:
    with running_agent() as (agent, client):
        ids = [client.submit(["sleep", "3600"]).id for _ in range(jobs)]
        wait_until(lambda: all(map(agent.shim_pid, ids)), deadline_s=60, what="every pidfile")
        client.close()
        warden, server = agent.warden_pid(), agent.server_pid()
        cpu = _cpu_percent(warden, server, *map(agent.shim_pid, ids))
        memory = {"server": pss_bytes(server) / MB, "warden": pss_bytes(warden) / MB}
    rival_cpu, rival_mb = _supervisord(stage, jobs)
    what = f"idle, {jobs} sleeping jobs"
    limits = {"server": SERVER_BUDGET_MB, "warden": WARDEN_BUDGET_MB}
    return [
        Row(
            f"{what}: CPU of agent and shims",
            cpu,
            "% of a core",
            "supervisord",
            rival_cpu,
            f"<= {cpu_budget} %",
            cpu <= cpu_budget,
        ),
        *(
            Row(
                f"{what}: PSS of the {part}",
                memory[part],
                "MB",
                "supervisord",
                rival_mb,
                f"<= {limit} MB",
                memory[part] <= limit,
            )
            for part, limit in limits.items()
        ),
    ]


def _cpu_percent(*pids: int) -> float:
    time.sleep(SETTLE_S)
    before = cpu_ns(pids)
    time.sleep(WINDOW_S)
    return 100 * (cpu_ns(pids) - before) / (WINDOW_S * 1e9)


def _supervisord(stage: Stage, jobs: int) -> tuple[float | None, float | None]:
    if not is_installed("supervisord"):
        return None, None
    with supervisord(stage.fresh("supervisord"), jobs) as daemon:
        return _cpu_percent(daemon.pid), pss_bytes(daemon.pid) / MB
