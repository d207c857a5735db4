"""The guard's budgets, beside the guards that Debian has."""

from __future__ import annotations

from tests.bench import guardcalm, guardcost, guardlatency, guardlimit
from tests.bench.stage import Stage
from tests.bench.table import Row


def measure(stage: Stage) -> list[Row]:
    """Return all rows about the guard on this machine; those of the test machine: see vm.py."""
    parts = (guardlatency, guardlimit, guardcalm, guardcost)
    return [row for part in parts for row in part.measure(stage)]
