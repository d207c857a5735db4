"""From the call that submits to the job's first instruction, on a warm connection."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.bench.probe import read_note
from tests.bench.rivals import is_installed, task_spooler, tmux
from tests.bench.stage import Stage, running_agent
from tests.bench.table import Row
from tests.helpers.wait import wait_until

SAMPLES = 60
BUDGET_MS = 10


def measure(stage: Stage) -> list[Row]:
    """Return the median of each way, in milliseconds."""
    with running_agent() as (agent, client):
        sdk = _median_ms(stage, client.submit)
        cli = _median_ms(stage, lambda argv: agent.cli("submit", "--", *argv, check=True))
    theirs = {"tmux new -d": _tmux(stage), "tsp": _tsp(stage)}
    what = "submit to first instruction"
    budget = f"median <= {BUDGET_MS} ms"
    rows = [
        Row(f"{what}, SDK", sdk, "ms", rival, figure, budget, sdk <= BUDGET_MS)
        for rival, figure in theirs.items()
    ]
    return [*rows, Row(f"{what}, agentctl submit", cli, "ms", "tsp", theirs["tsp"])]


def _median_ms(stage: Stage, submit: Callable[[Sequence[str]], object]) -> float:
    directory = stage.fresh("start")
    samples = []
    for number in range(SAMPLES):
        note = f"{directory}/{number}"
        began_ns = time.monotonic_ns()
        submit([*stage.probe, "stamp", note])
        wait_until(partial(os.path.exists, note), what="the job's first instruction")
        samples.append((read_note(note) - began_ns) / 1e6)
    return statistics.median(samples)


def _tmux(stage: Stage) -> float | None:
    if not is_installed("tmux"):
        return None
    with tmux(stage.fresh("tmux")) as words:
        return _median_ms(
            stage, lambda argv: subprocess.run([*words, "new", "-d", *argv], check=True)
        )


def _tsp(stage: Stage) -> float | None:
    if not is_installed("tsp"):
        return None
    with task_spooler(stage.fresh("tsp"), 1) as spooler:
        return _median_ms(stage, lambda argv: spooler.run(*argv))
