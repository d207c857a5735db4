"""`python -m tests.bench [NAME…]`: measure the budgets, print one table."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback

from tests.bench.stage import clear, stage
from tests.bench.table import Row, render

#: One module a budget, in the order of the table.
NAMES = (
    "throughput",
    "start",
    "memory",
    "idle",
    "output",
    "follow",
    "cold",
    "commands",
    "history",
    "guardlatency",
    "guardlimit",
    "guardcalm",
    "guardcost",
    "link",
    "cuts",
    "hosts",
    "forward",
    "vm",
)


def main(wanted: list[str]) -> int:
    """Measure what was asked for, all of it by default. Returns 1 if a budget was missed."""
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no such measurement: {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    failed: list[str] = []
    try:
        for name in wanted or NAMES:
            began_s = time.monotonic()
            try:
                with stage() as here:
                    rows += importlib.import_module(f"tests.bench.{name}").measure(here)
            except Exception:  # noqa: BLE001  # one that fails must not cost what the others took
                traceback.print_exc()
                failed.append(name)
            print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    finally:
        clear()
    print(
        f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians; ratio = ours / theirs\n"
    )
    print(render(rows))
    for name in failed:
        print(f"not measured: {name}")
    return 1 if failed or any(row.is_met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
