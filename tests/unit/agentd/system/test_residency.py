"""Staying in RAM: done where it can do no harm, said where it cannot be done."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

from agentd.system.residency import stay_resident
from tests.unit.agentd.system.sandbox import isolated


def locked_bytes() -> int:
    """Return how much of this process cannot leave RAM (VmLck, proc(5))."""
    # In bytes: a codec would have to be read from disk, by a user who may not.
    lines = Path("/proc/self/status").read_bytes().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(b"VmLck:"))


@isolated
def test_a_process_that_may_stays_in_ram() -> None:
    """What it has touched, and what it will; what it says is what is so."""
    said = stay_resident()

    before = locked_bytes()
    # Not from the heap, which may have room for it.
    with mmap.mmap(-1, 8 << 20) as memory:
        assert (locked_bytes() >= before + len(memory)) == (said == "locked in RAM")
    assert said == "locked in RAM" or os.getuid() != 0


@isolated
def test_a_process_with_a_limit_is_left_alone() -> None:
    """Past the limit its allocations would fail: worse than being swapped out."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
    os.setuid(65534)

    assert stay_resident() == "not locked in RAM: the limit (ulimit -l) is 8192 KiB"
    assert locked_bytes() == 0
