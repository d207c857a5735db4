"""What guarding costs while no mark is near."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.guards import cpu_percent, guarded_agent, rivals
from tests.bench.machine import pss_bytes
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.helpers.agent import Agent
from tests.helpers.processes import processes_of
from tests.helpers.wait import dawdle, wait_until

if TYPE_CHECKING:
    from agentctl import Client

#: Jobs, processes of each, and what of a core the warden may use, in percent.
SCENES = ((0, 0, 0.2), (10, 20, 1.0), (100, 5, 2.0))
WARDEN_BUDGET_MB = 20
WINDOW_S = 15
SETTLE_S = 3
_MB = 1_000_000
_LIMIT = "2G"


def measure(stage: Stage) -> list[Row]:
    """Return processor time and memory of the warden and of each rival, in turns."""
    return [row for scene in SCENES for row in _scene(stage, *scene)]


def _scene(stage: Stage, jobs: int, processes: int, budget: float) -> list[Row]:
    what = f"{jobs} jobs x {processes} processes" if jobs else "idle"
    with guarded_agent("") as (agent, client):
        _fill(agent, client, jobs, processes)
        dawdle(SETTLE_S)
        warden = agent.warden_pid()
        cpu = cpu_percent(WINDOW_S, dawdle, warden)
        memory_mb = pss_bytes(warden) / _MB
        rows = []
        for rival, start in rivals().items():
            with start(stage.fresh(rival), 0) as daemon:
                dawdle(SETTLE_S)
                theirs = cpu_percent(WINDOW_S, dawdle, daemon.pid)
                theirs_mb = daemon.memory_bytes / _MB
            rows += [
                Row(
                    *(f"{what}: CPU of the warden", cpu, "% of a core", rival, theirs),
                    *(f"<= {budget} %", cpu <= budget),
                ),
                Row(
                    *(f"{what}: PSS of the warden", memory_mb, "MB", rival, theirs_mb),
                    *(f"<= {WARDEN_BUDGET_MB} MB", memory_mb <= WARDEN_BUDGET_MB),
                ),
            ]
    return rows


def _fill(agent: Agent, client: Client, jobs: int, processes: int) -> None:
    line = f"i=1; while [ $i -lt {processes} ]; do sleep 3600 & i=$((i+1)); done; wait"
    ids = [client.submit(["/bin/sh", "-c", line], mem=_LIMIT).id for _ in range(jobs)]
    wait_until(lambda: all(map(agent.shim_pid, ids)), deadline_s=120, what="every pidfile")
    # The agent's own come on top: warden, spawner, server, a shim a job.
    wait_until(
        lambda: len(processes_of(agent.root)) >= jobs * (processes + 1) + 3,
        deadline_s=120,
        what="every process",
    )
