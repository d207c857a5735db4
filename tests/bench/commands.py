"""Whole processes of the commands people type most."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.bench.rivals import is_installed, supervisord
from tests.bench.stage import Stage, running_agent, wait_all_over
from tests.bench.table import Row, median_of

RUNS = 21
JOBS = 20
BUDGETS_MS = {"ls": 150, "--help": 60}


def measure(stage: Stage) -> list[Row]:
    """Return `agentctl ls` and `--help` beside `supervisorctl status`, each with 20 jobs."""
    with running_agent() as (agent, client):
        for _ in range(JOBS):
            client.submit(["true"])
        wait_all_over(agent)
        ours = {
            word: median_of(RUNS, _timed(partial(agent.cli, word, check=True)))
            for word in BUDGETS_MS
        }
    theirs = _supervisorctl(stage)
    return [
        Row(
            f"agentctl {word}",
            ours[word],
            "ms",
            "supervisorctl status",
            theirs,
            f"<= {limit} ms, < rival",
            ours[word] <= min(limit, theirs or limit),
        )
        for word, limit in BUDGETS_MS.items()
    ]


def _supervisorctl(stage: Stage) -> float | None:
    if not is_installed("supervisorctl"):
        return None
    with supervisord(stage.fresh("supervisord"), JOBS) as daemon:
        return median_of(RUNS, _timed(daemon.status))


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began_s = time.monotonic()
        call()
        return 1000 * (time.monotonic() - began_s)

    return timed
