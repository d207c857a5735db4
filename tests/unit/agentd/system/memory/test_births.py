"""Who was born since the last look, as told by the kernel's newest pid."""

from __future__ import annotations

import os
import time

import pytest

from agentd.system.memory.births import Births
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.memory.rigs import descriptors, fresh, lay_out
from tests.unit.agentd.system.sandbox import sleeper


def _status(pid: int, parent: int, group: int) -> str:
    return f"Name:\tx\nTgid:\t{group}\nPid:\t{pid}\nPPid:\t{parent}\n"


def _proc(directory: object, newest: int) -> str:
    path = lay_out(str(directory), {"loadavg": f"0.0 0.0 0.0 1/99 {newest}\n"})
    if not os.path.lexists(f"{path}/self"):
        os.symlink(str(os.getpid()), f"{path}/self")
    return path


@fresh
def test_a_real_child_is_in_the_log_with_its_parent() -> None:
    """Within the number of processes that may be born between two looks."""
    births = Births(descriptors())
    births.look(time.monotonic_ns())
    cursor = births.cursor
    pid = sleeper()

    def is_logged() -> bool:
        births.look(time.monotonic_ns())
        return (pid, os.getpid()) in (births.since(cursor) or [])

    wait_until(is_logged, what="the child is logged")
    births.close()


def test_a_thread_is_no_birth(tmp_path: object) -> None:
    """It has a number of its own, and its process's memory."""
    births = Births(descriptors(), _proc(tmp_path, 10))
    births.look(1)
    cursor = births.cursor
    lay_out(_proc(tmp_path, 12), {"11/status": _status(11, 4, 9), "12/status": _status(12, 9, 12)})
    births.look(2)
    assert births.since(cursor) == [(12, 9)]
    births.close()


def test_one_seen_late_makes_everybody_walk(tmp_path: object) -> None:
    """Its children may stand in the log before it."""
    births = Births(descriptors(), _proc(tmp_path, 10))
    births.look(1)
    cursor = births.cursor
    lay_out(_proc(tmp_path, 12), {"12/status": _status(12, 11, 12)})
    births.look(2)
    assert births.since(cursor) == [(12, 11)]
    lay_out(_proc(tmp_path, 12), {"11/status": _status(11, 4, 11)})
    births.look(3)
    assert births.since(cursor) is None
    assert births.since(births.cursor) == []
    births.close()


@pytest.mark.parametrize("newest", ["9\n", "500\n", "0\n", "x\n", "12", "", "-1\n"], ids=repr)
def test_what_the_kernel_does_not_say_makes_everybody_walk(tmp_path: object, newest: str) -> None:
    """Numbers that wrapped, too many, none (gVisor), nonsense, and a line cut short."""
    births = Births(descriptors(), _proc(tmp_path, 10))
    births.look(1)
    cursor = births.cursor
    lay_out(str(tmp_path), {"loadavg": f"0.0 0.0 0.0 1/99 {newest}"})
    births.look(2)
    assert births.since(cursor) is None
    births.close()


def test_another_namespaces_proc_is_not_believed(tmp_path: object) -> None:
    """Its numbers are not those that its loadavg counts."""
    path = _proc(tmp_path, 10)
    os.unlink(f"{path}/self")
    os.symlink("1", f"{path}/self")
    births = Births(descriptors(), path)
    births.look(1)
    cursor = births.cursor
    births.look(2)
    assert births.since(cursor) is None
    births.close()
