"""Processes that hold memory in known ways, and directories that look like /proc."""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec

from agentd.core.guard.model import Charge, JobSample
from agentd.system import proc
from agentd.system.memory.jobs import JobGauge
from agentd.system.memory.kept import Descriptors
from agentd.system.memory.tree import Census
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated

P = ParamSpec("P")

MIB = 1 << 20
_FRESH = "AGENT_TEST_FRESH"
_IS_FRESH = _FRESH in os.environ
_ROOT = Path(__file__).parents[5]
_CALL = """
import importlib, pickle, sys
args, kwargs = pickle.loads(bytes.fromhex(sys.argv[3]))
getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*args, **kwargs)
"""
PAGE_BYTES = mmap.PAGESIZE


def fresh(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test isolated in an interpreter of its own.

    What the others have loaded and made is some hundred MiB, and every child forked for a
    measurement would hold that as well.
    """
    within = isolated(test)

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if _IS_FRESH:
            within(*args, **kwargs)
            return
        given = pickle.dumps((args, kwargs)).hex()
        done = subprocess.run(
            [sys.executable, "-c", _CALL, test.__module__, test.__name__, given],
            env={**os.environ, _FRESH: "1"},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


def touch(memory: mmap.mmap, size_bytes: int) -> None:
    """Write one byte into every page."""
    for offset in range(0, size_bytes, PAGE_BYTES):
        memory[offset] = 1


def anonymous(size_bytes: int, flags: int = mmap.MAP_PRIVATE) -> mmap.mmap:
    """Return touched memory of no file, private or shared with children to come."""
    memory = mmap.mmap(-1, size_bytes, flags=flags | mmap.MAP_ANONYMOUS)
    touch(memory, size_bytes)
    return memory


def holder(*acts: Callable[[], object]) -> int:
    """Return a child that has done `acts`, keeps what they returned, and hangs."""
    read_end, write_end = os.pipe()
    kept: list[object] = []

    def settle() -> None:
        kept.extend(act() for act in acts)
        os.write(write_end, b"!")

    pid = fork(settle, hang)
    os.close(write_end)
    assert os.read(read_end, 1) == b"!", "the child could not do its acts"
    os.close(read_end)
    return pid


def end(pid: int) -> None:
    """Kill a child and reap it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def gauge_of(*pids: int, census: Census | None = None) -> JobGauge:
    """Return a gauge of these processes and all below them."""

    def members() -> Sequence[int]:
        return [member for pid in pids for member in (pid, *proc.descendants(pid))]

    return JobGauge(7, members, census)


def resident(gauge: JobGauge, *, has_swap: bool = False) -> JobSample:
    """Look now, eagerly."""
    return gauge.resident(time.monotonic_ns(), has_swap=has_swap, eager=True)


def charge(gauge: JobGauge) -> tuple[JobSample, Charge]:
    """Measure the charge, waiting for a walk that goes on beside."""

    def measured() -> JobSample | None:
        sample = gauge.charge(time.monotonic_ns())
        assert sample.is_measuring == (sample.charge is None)
        return sample if sample.charge is not None else None

    sample = wait_until(measured, what="the charge")
    assert sample is not None
    assert sample.charge is not None
    return sample, sample.charge


def lay_out(directory: str, files: Mapping[str, str | bytes]) -> str:
    """Write files below a directory, and return the directory."""
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    return directory


def descriptors() -> Descriptors:
    """Return room for descriptors of the test's own."""
    return Descriptors()
