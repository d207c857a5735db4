"""1,000 x true through one connection, until every exit record is durable."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.rivals import is_installed, task_spooler
from tests.bench.stage import Stage, running_agent, wait_all_over
from tests.bench.table import Row, interleaved, median_of
from tests.helpers.wait import wait_until

JOBS = 1000
PARALLEL = 8
RUNS = 3
BUDGET_PER_S = 200


def measure(stage: Stage) -> list[Row]:
    """Return jobs a second, ours beside tsp's."""
    if is_installed("tsp"):
        ours, theirs = interleaved(RUNS, _ours, lambda: _tsp(stage))
    else:
        ours, theirs = median_of(RUNS, _ours), None
    what = f"{JOBS} x true, {PARALLEL} at a time, durable records"
    budget = f">= {BUDGET_PER_S} jobs/s"
    return [Row(what, ours, "jobs/s", "tsp (RAM only)", theirs, budget, ours >= BUDGET_PER_S)]


def _ours() -> float:
    with running_agent() as (agent, client), ThreadPoolExecutor(PARALLEL) as pool:
        began_s = time.monotonic()
        ids = list(pool.map(lambda _: client.submit(["true"]).id, range(JOBS)))
        wait_all_over(agent)
        took_s = time.monotonic() - began_s
        records = list(Path(f"{agent.state_dir}/jobs").glob("*/exit.json"))
        assert len(set(ids)) == len(records) == JOBS
        return JOBS / took_s


def _tsp(stage: Stage) -> float:
    with (
        task_spooler(stage.fresh("tsp"), PARALLEL) as spooler,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        began_s = time.monotonic()
        list(pool.map(lambda _: _submit(spooler.env), range(JOBS)))

        def all_finished() -> bool:
            return spooler.run("-l").count(" finished ") == JOBS

        wait_until(all_finished, deadline_s=300, what="every job of tsp finished")
        return JOBS / (time.monotonic() - began_s)


def _submit(env: dict[str, str]) -> None:
    subprocess.run(["tsp", "true"], env=env, stdout=subprocess.DEVNULL, check=True)
