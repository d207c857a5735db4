"""From the mark's crossing to the last sign of life of the hog, at full speed."""

from __future__ import annotations

import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from tests.bench.guards import (
    GIB,
    Ballast,
    Rival,
    ballast,
    busy_cores,
    decoys,
    guarded_agent,
    marks,
    meminfo_bytes,
    prefer,
    rivals,
)
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.helpers.hogs import Progress, ProgressFile, hog, progress_file
from tests.helpers.wait import dawdle, wait_gone, wait_until

if TYPE_CHECKING:
    from agentctl import Client

RUNS = 30
#: A rival's median shows in fewer.
RIVAL_RUNS = 10
MEDIAN_BUDGET_MS = 5
P99_BUDGET_MS = 30
P99_LOADED_BUDGET_MS = 150
#: At least so many times tighter in the median than each rival.
TIGHTER = 5
#: nohang takes no mark above half of the memory.
_MARK_RATIO = 0.4
#: A hog begins so far above the mark, and stops by itself so far below.
_ROOM_BYTES = GIB
_BEYOND_BYTES = 3 * GIB
#: Nothing was noted for so long: it stands.
_QUIET_S = 0.5


def measure(stage: Stage) -> list[Row]:
    """Return median and p99 of ours beside each rival's, idle and with every core loaded."""
    mark_bytes = int(meminfo_bytes("MemTotal") * _MARK_RATIO)
    rows: list[Row] = []
    with ballast(mark_bytes + _ROOM_BYTES) as held:
        for loaded in (False, True):
            with busy_cores() if loaded else nullcontext():
                ours = _ours(held, mark_bytes)
                theirs = {
                    name: _theirs(held, start, stage.fresh(name), mark_bytes)
                    for name, start in rivals().items()
                }
            rows += _rows("every core loaded" if loaded else "idle", ours, theirs, loaded=loaded)
    return rows


def _rows(
    what: str, ours: Sequence[float], theirs: dict[str, list[float]], *, loaded: bool
) -> list[Row]:
    name = f"mark crossed to hog stopped, {what}, {RUNS} runs"
    limit = P99_LOADED_BUDGET_MS if loaded else P99_BUDGET_MS
    median, p99 = statistics.median(ours), _p99(ours)
    rows = []
    for rival, figures in theirs.items() or {"none installed": []}.items():
        other = statistics.median(figures) if figures else None
        tight = other is None or median * TIGHTER <= other
        met = None if loaded else median <= MEDIAN_BUDGET_MS and tight
        budget = "" if loaded else f"<= {MEDIAN_BUDGET_MS} ms, {TIGHTER}x tighter"
        rows.append(Row(f"{name}: median", median, "ms", rival, other, budget, met))
        worst = _p99(figures) if figures else None
        rows.append(Row(f"{name}: p99", p99, "ms", rival, worst, f"<= {limit} ms", p99 <= limit))
    return rows


def _p99(figures: Sequence[float]) -> float:
    return statistics.quantiles(figures, n=100, method="inclusive")[98]


def _ours(held: Ballast, mark_bytes: int) -> list[float]:
    # It is frozen and held at this mark; the marks that end jobs stay where they are.
    config = marks(warn=mark_bytes + (_ROOM_BYTES >> 1), pause=mark_bytes)
    with guarded_agent(config) as (_agent, client):
        return [_run(held, mark_bytes, lambda argv: _job(client, argv)) for _ in range(RUNS)]


@contextmanager
def _job(client: Client, argv: Sequence[str]) -> Iterator[None]:
    job = client.submit(argv)
    try:
        yield
    finally:
        client.kill(job.id)
        client.wait(job.id, timeout_s=30)


def _theirs(held: Ballast, start: Rival, directory: str, mark_bytes: int) -> list[float]:
    @contextmanager
    def guarded(argv: Sequence[str]) -> Iterator[None]:
        # One for each run: between two of them there is no hog that it could mean.
        with start(directory, mark_bytes), _process(argv):
            yield

    with decoys():
        return [_run(held, mark_bytes, guarded) for _ in range(RIVAL_RUNS)]


@contextmanager
def _process(argv: Sequence[str]) -> Iterator[None]:
    with subprocess.Popen(argv) as process:
        prefer(process.pid)
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _run(
    held: Ballast, mark_bytes: int, start: Callable[[Sequence[str]], AbstractContextManager[None]]
) -> float:
    """Return one run's milliseconds."""
    held.settle()
    with progress_file() as progress:
        argv = hog("anon", progress, _ROOM_BYTES + _BEYOND_BYTES, mark=mark_bytes)
        with start(argv):
            seen = _standstill(progress)
        wait_gone(set(seen.pids), what="the hog is gone")
    # Stopped at the mark before its own next look, a chunk later, could have seen the crossing.
    return seen.stopped_after_ns / 1e6 if seen.crossed_ns else 0.0


def _standstill(progress: ProgressFile) -> Progress:
    wait_until(lambda: progress.read().taken_bytes, deadline_s=60, what="it has begun")
    while True:
        seen = progress.read()
        dawdle(_QUIET_S)
        if progress.read() == seen:
            return seen
