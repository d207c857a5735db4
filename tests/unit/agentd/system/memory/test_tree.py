"""Which processes a job has: new ones are found, strangers and agents are not taken for them."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

import pytest

from agentd.system.memory.jobs import JobGauge
from agentd.system.memory.tree import Census
from agentd.system.prctl import set_name
from tests.helpers.descriptors import held
from tests.helpers.wait import dawdle, wait_until
from tests.unit.agentd.system.memory.rigs import (
    MIB,
    anonymous,
    charge,
    end,
    fresh,
    gauge_of,
    holder,
    resident,
)
from tests.unit.agentd.system.sandbox import sleeper

_SHARED_BYTES = 48 * MIB
_NOBODY = 65534


@fresh
def test_new_processes_are_found_without_a_walk() -> None:
    """Their parent is known, and the kernel's newest pid has moved."""
    walks: list[int] = []
    children: list[int] = []

    def members() -> list[int]:
        walks.append(1)
        return [os.getpid(), *children]

    gauge = JobGauge(7, members)
    gauge.root = os.getppid()
    resident(gauge)
    resident(gauge)
    count = len(walks)
    pid = sleeper()
    wait_until(lambda: (resident(gauge), pid in gauge.pids)[1], what="found")
    assert len(walks) == count
    children.append(pid)
    gauge.close()


@fresh
def test_an_agent_that_a_job_has_started_is_none_of_its_processes() -> None:
    """Its jobs are its own; by birth alone it looked like a member."""
    gauge = gauge_of(os.getpid())
    gauge.root = os.getppid()
    before = charge(gauge)[1].held_bytes
    agent = holder(lambda: set_name("agentd-warden"), lambda: anonymous(_SHARED_BYTES))
    wait_until(lambda: (resident(gauge), agent in gauge.pids)[1], what="taken for a member")
    assert charge(gauge)[1].held_bytes < before + _SHARED_BYTES
    assert agent not in gauge.pids
    assert agent not in (resident(gauge), gauge.pids)[1]
    gauge.close()


@fresh
def test_an_orphan_is_found_by_the_root_it_was_given_to() -> None:
    """A double fork leaves the job's tree, but not the shim's."""
    gauge = JobGauge(7, list)
    gauge.root = os.getpid()
    resident(gauge)
    pid = sleeper()
    wait_until(lambda: (resident(gauge), pid in gauge.pids)[1], what="found below the root")
    gauge.close()


@pytest.mark.root
@fresh
def test_a_recycled_pid_is_another_process() -> None:
    """The job's process has ended, and a stranger has its number."""
    first = holder(lambda: anonymous(_SHARED_BYTES))
    mine = [first]
    gauge = JobGauge(7, lambda: list(mine))
    gauge.root = 1
    assert resident(gauge).upper_bytes >= _SHARED_BYTES
    end(first)
    mine.clear()
    second = _sleeper_with(first)
    sample = resident(gauge)
    assert (sample.processes, sample.upper_bytes, gauge.pids) == (0, 0, [])
    end(second)
    gauge.close()


@pytest.mark.root
@fresh
def test_a_recycled_pid_is_another_process_even_if_no_descriptor_could_be_kept() -> None:
    """Then the log of births tells: who is born has ended before."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    census = Census()
    census.descriptors._limit = 1
    _next_pid_after(5000)
    first = holder(lambda: anonymous(_SHARED_BYTES))
    mine = [first]
    gauge = JobGauge(7, lambda: list(mine), census)
    gauge.root = 1
    assert resident(gauge).upper_bytes >= _SHARED_BYTES
    # Numbers go on for long before they begin again.
    _next_pid_after(15000)
    assert sleeper() != first
    resident(gauge)
    end(first)
    mine.clear()
    second = _sleeper_with(first, lambda: anonymous(2 * _SHARED_BYTES))
    sample = resident(gauge)
    assert (sample.processes, sample.upper_bytes, gauge.pids) == (0, 0, [])
    end(second)
    gauge.close()
    census.close()


def _next_pid_after(pid: int) -> None:
    """Say which was the last, as root may (ns_last_pid in proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
        file.write(str(pid))


def _sleeper_with(pid: int, *acts: Callable[[], object]) -> int:
    """Return a child with this pid."""
    for _ in range(200):
        _next_pid_after(pid - 1)
        child = holder(*acts)
        if child == pid:
            return child
        end(child)
    raise AssertionError("others were faster each time")


@fresh
def test_two_hundred_processes_are_all_counted() -> None:
    """And all of their descriptors come back."""
    before = held()
    workers = [sleeper() for _ in range(200)]
    gauge = gauge_of(os.getpid())
    assert resident(gauge).processes == 201
    assert charge(gauge)[0].processes == 201
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)
    assert resident(gauge).processes == 1
    gauge.close()
    assert held() <= before


@fresh
def test_a_walk_that_fails_leaves_those_known() -> None:
    """The gauge goes on with what it has, and says so."""
    found = [os.getpid()]

    def members() -> list[int]:
        if not found:
            raise OSError(24, "Too many open files")
        return found

    gauge = JobGauge(7, members)
    assert not resident(gauge).is_partial
    found.clear()
    gauge._tree._is_due = True
    sample = resident(gauge)
    assert (sample.processes, sample.is_partial) == (1, True)
    assert sample.upper_bytes > 0
    gauge.close()


def test_a_quiet_look_rests_between_walks() -> None:
    """Where births cannot be told, walks keep to their share; near a mark they do not."""
    walks: list[int] = []

    def members() -> list[int]:
        walks.append(1)
        dawdle(0.001)
        return []

    gauge = JobGauge(7, members, Census(proc="/nowhere"))
    start_ns = time.monotonic_ns()
    for step in range(100):
        gauge.resident(start_ns + step * 1_000_000)
    assert len(walks) == 1 + (99_000_000 // 100_000_000)
    for step in range(100, 110):
        gauge.resident(start_ns + step * 1_000_000, eager=True)
    assert len(walks) == 11
    gauge.close()
