"""Memory and processor time of processes, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def pss_bytes(pid: int) -> int:
    """Return the proportional set size (proc(5), smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss in smaps_rollup of {pid}")


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the time all threads of these processes ran (proc(5), schedstat field 1)."""
    return sum(
        int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text(encoding="ascii").split()[0])
        for pid in pids
        for thread in os.listdir(f"/proc/{pid}/task")
    )
