"""Staying in RAM: done where it can do no harm, said where it cannot be done."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from pathlib import Path

from agentd.system.residency import stay_resident
from tests.unit.agentd.system.sandbox import isolated

_PR_SET_DUMPABLE = 4


def locked_bytes() -> int:
    """Return how much of this process cannot leave RAM (VmLck, proc(5))."""
    # In bytes: a codec would have to be read from disk, by a user who may not.
    lines = Path("/proc/self/status").read_bytes().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(b"VmLck:"))


def become_ordinary(limit_bytes: int) -> None:
    """Be a user's process like any other, that may lock so much."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit_bytes, limit_bytes))
    os.setuid(65534)
    # Whoever changes their uid is shut out of much of /proc/self until they execute a program.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)


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
def test_an_ordinary_process_keeps_its_code_in_ram() -> None:
    """Past the limit its allocations would fail: its heap is left alone."""
    become_ordinary(8 << 20)

    said = stay_resident()

    locked_kib = locked_bytes() >> 10
    assert said.startswith("locked in RAM with ")
    assert f" {locked_kib} " in said
    assert 512 < locked_kib <= 8192
    with mmap.mmap(-1, 32 << 20) as memory:
        memory[:] = bytes(len(memory))
    assert locked_bytes() >> 10 == locked_kib


@isolated
def test_a_process_that_may_lock_little_locks_no_more() -> None:
    """As much of its code as the limit allows, and says of how much."""
    become_ordinary(256 << 10)

    said = stay_resident()

    assert 0 < locked_bytes() <= 256 << 10
    assert " of " in said
    assert said.endswith("the limit (ulimit -l) is 256 KiB")


@isolated
def test_a_process_that_may_lock_nothing_says_so() -> None:
    """It goes on without."""
    become_ordinary(0)

    assert stay_resident() == "not locked in RAM: the limit (ulimit -l) is 0 KiB"
    assert locked_bytes() == 0
