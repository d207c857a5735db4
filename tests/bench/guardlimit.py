"""How far a hog at full speed gets past its own limit before the guard has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.guards import GIB, MIB, guarded_agent
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.helpers.hogs import Progress, hog, progress_file

if TYPE_CHECKING:
    from agentctl import Client

RUNS = 10
LIMIT_BYTES = 512 * MIB
LEAST_BUDGET_BYTES = 64 * MIB
BUDGET_S = 0.06
#: By their documents: Slurm's JobAcctGatherFrequency, pm2's worker interval.
_SAMPLING_S = {"Slurm, a sample each 30 s": 30, "pm2, a look each 30 s": 30}
_MB = 1_000_000


def measure(stage: Stage) -> list[Row]:
    """Return the worst overshoot, and what a hog of that rate reaches within a rival's interval."""
    with guarded_agent("") as (_agent, client):
        for_one = [_run(client, threads=1) for _ in range(RUNS)]
        for_many = [_run(client, threads=8) for _ in range(RUNS)]
    return [*_rows("one thread", for_one), *_rows("8 threads", for_many)]


def _rows(who: str, runs: list[Progress]) -> list[Row]:
    worst = max(runs, key=_over_bytes)
    budget_bytes = max(LEAST_BUDGET_BYTES, worst.rate_bytes_per_s * BUDGET_S)
    return [
        Row(
            f"overshoot past 512 MiB, {who}, worst of {RUNS}",
            _over_bytes(worst) / _MB,
            "MB",
            rival,
            worst.rate_bytes_per_s * interval_s / _MB,
            f"<= {budget_bytes / _MB:.0f} MB",
            _over_bytes(worst) <= budget_bytes,
        )
        for rival, interval_s in _SAMPLING_S.items()
    ]


def _over_bytes(seen: Progress) -> float:
    return max(0, seen.taken_bytes - LIMIT_BYTES)


def _run(client: Client, threads: int) -> Progress:
    with progress_file() as progress:
        argv = hog("anon", progress, LIMIT_BYTES + 2 * GIB, threads=threads)
        job = client.submit(argv, mem=LIMIT_BYTES, mem_action="kill")
        ended = client.wait(job.id, timeout_s=60)
        assert ended.cause == "guard", ended
        return progress.read()
