"""From a byte written by the job to the same byte printed by whoever follows it."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import IO

from tests.bench.stage import Stage, running_agent
from tests.bench.table import Row

SAMPLES = 200
BUDGET_MS = 5


def measure(stage: Stage) -> list[Row]:
    """Return the median delay of `logs -f` beside that of `tail -f`."""
    ours, theirs = _logs(stage), _tail(stage)
    return [
        Row(
            "byte written to byte printed by logs -f",
            ours,
            "ms",
            "tail -f",
            theirs,
            f"median <= {BUDGET_MS} ms",
            ours <= BUDGET_MS,
        )
    ]


def _logs(stage: Stage) -> float:
    with running_agent() as (agent, client):
        job = client.submit([*stage.probe, "ticks", str(SAMPLES + 50)])
        with agent.popen("logs", "-f", str(job.id), stdout=subprocess.PIPE) as follower:
            delay = _median_ms(follower.stdout)
            follower.terminate()
    return delay


def _tail(stage: Stage) -> float:
    path = f"{stage.fresh('tail')}/out"
    with (
        open(path, "wb") as out,
        subprocess.Popen([*stage.probe, "ticks", str(SAMPLES + 50)], stdout=out) as job,
        subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=subprocess.PIPE) as follower,
    ):
        delay = _median_ms(follower.stdout)
        follower.terminate()
        job.terminate()
    return delay


def _median_ms(lines: IO[bytes] | None) -> float:
    assert lines is not None
    delays = []
    for line in lines:
        delays.append((time.monotonic_ns() - int(line)) / 1e6)
        if len(delays) == SAMPLES + 25:
            break
    # The first ones were written before the follower was there.
    return statistics.median(delays[25:])
