"""The first submit of all, with no agent running: the whole process of the command."""

from __future__ import annotations

import subprocess
import time

from tests.bench.rivals import is_installed
from tests.bench.stage import Stage, cold_agent, wait_all_over
from tests.bench.table import Row, interleaved, median_of

RUNS = 7
BUDGET_MS = 800


def measure(stage: Stage) -> list[Row]:
    """Return the time of a cold submit beside a cold `tmux new -d`."""
    if is_installed("tmux"):
        ours, theirs = interleaved(RUNS, _ours, lambda: _tmux(stage))
    else:
        ours, theirs = median_of(RUNS, _ours), None
    return [
        Row(
            "first agentctl submit, agent not running",
            ours,
            "ms",
            "tmux new -d, cold",
            theirs,
            f"<= {BUDGET_MS} ms",
            ours <= BUDGET_MS,
        )
    ]


def _ours() -> float:
    with cold_agent() as agent:
        began_s = time.monotonic()
        agent.cli("submit", "--", "true", check=True)
        took_ms = 1000 * (time.monotonic() - began_s)
        wait_all_over(agent)
    return took_ms


def _tmux(stage: Stage) -> float:
    words = ["tmux", "-f", "/dev/null", "-S", f"{stage.fresh('tmux')}/tmux"]
    began_s = time.monotonic()
    subprocess.run([*words, "new", "-d", "sleep 3600"], check=True)
    took_ms = 1000 * (time.monotonic() - began_s)
    subprocess.run([*words, "kill-server"], check=True)
    return took_ms
