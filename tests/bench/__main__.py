"""`python -m tests.bench [NAME…]`: measure the budgets, print one table."""

from __future__ import annotations

import importlib
import os
import sys
import time

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
    "guard",
    "vm",
)


def main(wanted: list[str]) -> int:
    """Measure what was asked for, all of it by default. Returns 1 if a budget was missed."""
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no such measurement: {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    try:
        for name in wanted or NAMES:
            began_s = time.monotonic()
            with stage() as here:
                rows += importlib.import_module(f"tests.bench.{name}").measure(here)
            print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    finally:
        clear()
    print(
        f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians; ratio = ours / theirs\n"
    )
    print(render(rows))
    return 1 if any(row.is_met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
