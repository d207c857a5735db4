"""How a child ended, as records of core.job; the calls themselves are `kernel`'s."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.job import ResourceUsage
from agentd.system import kernel
from agentd.system.kernel import (
    become_subreaper,
    die_with_parent,
    exit_status_of,
    reset_signals,
    set_name,
)

__all__ = [
    "Exit",
    "become_subreaper",
    "die_with_parent",
    "exit_status_of",
    "look_at_exit",
    "reset_signals",
    "set_name",
]


@dataclass(frozen=True, slots=True)
class Exit:
    """A child that ended: its status as of wait(2) and what it and its reaped children used."""

    pid: int
    wait_status: int
    usage: ResourceUsage


def look_at_exit(pid: int) -> Exit | None:
    """Return how the child `pid` ended without reaping it; None while it runs.

    Raises:
        ChildProcessError: It is not a child of this process.

    """
    ended = kernel.look_at_exit(pid)
    if ended is None:
        return None
    usage = ResourceUsage(ended.cpu_user_s, ended.cpu_system_s, ended.peak_memory_bytes)
    return Exit(pid, ended.wait_status, usage)
