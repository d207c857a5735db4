"""Processes as core.job.ProcessId; the looks themselves are `proc`'s."""

from __future__ import annotations

from agentd.core.job import ProcessId
from agentd.system.proc import (
    children,
    descendants,
    find_members,
    is_alive,
    is_running,
    is_stopped,
    send,
    send_all,
    start_ticks,
)

__all__ = [
    "children",
    "descendants",
    "find_members",
    "identify",
    "is_alive",
    "is_running",
    "is_stopped",
    "send",
    "send_all",
]


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a process that exists (a zombie too), or None."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks)
