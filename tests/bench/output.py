"""Output through the shim beside the same program writing straight to a file.

The clock is the job's own: from before its first write to after its last.
"""

from __future__ import annotations

import os
import subprocess
from functools import partial

from tests.bench.probe import read_note
from tests.bench.stage import Stage, running_agent
from tests.bench.table import Row, interleaved

RUNS = 5
BUDGET_RATIO = 0.9
BLOCKS = 1_000_000_000 // 65536
LINES = 300_000


def measure(stage: Stage) -> list[Row]:
    """Return megabytes and lines a second, ours beside a plain redirection."""
    rows = []
    amounts = {"blocks": (BLOCKS, 65536 / 1e6, "MB/s"), "lines": (LINES, 1.0, "lines/s")}
    for mode, (count, weight, unit) in amounts.items():
        ours_s, theirs_s = interleaved(
            RUNS,
            partial(_through_shim, stage, mode, count),
            partial(_to_file, stage, mode, count),
        )
        what = "1 GB in 64 kB writes" if mode == "blocks" else f"{LINES} short flushed lines"
        ratio = theirs_s / ours_s
        rows.append(
            Row(
                what,
                count * weight / ours_s,
                unit,
                "> file",
                count * weight / theirs_s,
                f">= {BUDGET_RATIO} x",
                ratio >= BUDGET_RATIO,
            )
        )
    return rows


def _through_shim(stage: Stage, mode: str, count: int) -> float:
    note = f"{stage.fresh('out')}/note"
    with running_agent() as (_, client):
        job = client.submit([*stage.probe, mode, str(count), note])
        ended = client.wait(job.id, timeout_s=120)
        assert ended.exit_code == 0
        assert mode != "blocks" or ended.log_bytes == count * 65536
    return read_note(note) / 1e9


def _to_file(stage: Stage, mode: str, count: int) -> float:
    directory = stage.fresh("file")
    with open(f"{directory}/out", "wb") as out:
        subprocess.run(
            [*stage.probe, mode, str(count), f"{directory}/note"], stdout=out, check=True
        )
    os.unlink(f"{directory}/out")
    return read_note(f"{directory}/note") / 1e9
