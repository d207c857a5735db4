"""The processes of one control path: masters, logins on their way, and what those started.

Every ssh of ours carries the control path in its arguments. So one that nobody wrote down, as
its client was killed during the login, is found all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from agentctl.link.ssh.process import Process, Stat, everyone, has_argument, words_of

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def now_ticks() -> int:
    """Return the time in the clock ticks since boot that /proc counts in."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S)


def ticks_until(deadline_s: float) -> int:
    """Return the same for a time of the monotonic clock."""
    return now_ticks() + int(max(0.0, deadline_s - time.monotonic()) * _TICKS_PER_S)


def process_in(content: Mapping[str, object]) -> Process | None:
    """Return the process that a file names. Pure."""
    pid, ticks = content.get("pid"), content.get("started_ticks")
    return Process(pid, ticks) if isinstance(pid, int) and isinstance(ticks, int) else None


def masters(control: str) -> list[Stat]:
    """Return those that listen at the control path, want to, or lost the race for it."""
    return [stat for stat in _carriers(control) if b"-M" in words_of(stat.process.pid)]


def family(control: str, *remembered: Mapping[str, object]) -> list[Process]:
    """Return all processes of the control path, and behind them their helpers.

    A helper is what a jump host or a ProxyCommand runs for a master; it may outlast its end.

    Args:
        control: The control path.
        remembered: Of logins: the "session" they had, if it was their own, and within which
            ticks their processes began.

    """
    named = {stat.process for stat in _carriers(control)}
    pids = {process.pid for process in named}
    # After a restart of the machine the numbers may fit somebody else.
    windows = [
        window
        for window in map(_window_in, remembered)
        if any(window.holds(process) for process in named)
    ]
    helpers = [
        stat.process
        for stat in everyone()
        if stat.process not in named
        and (
            stat.parent_pid in pids
            or any(w.session == stat.session and w.holds(stat.process) for w in windows)
        )
    ]
    return [*named, *helpers]


def _carriers(control: str) -> list[Stat]:
    return [
        stat for stat in everyone() if stat.is_alive and has_argument(stat.process.pid, control)
    ]


class _Window:
    """A session and the time in which its processes began."""

    __slots__ = ("_from_ticks", "_to_ticks", "session")

    def __init__(self, session: int, from_ticks: int, to_ticks: int) -> None:
        # The kernel's own threads are of the session 0: nobody is in it here.
        self.session = session or -1
        self._from_ticks = from_ticks
        self._to_ticks = to_ticks

    def holds(self, process: Process) -> bool:
        return self._from_ticks <= process.started_ticks <= self._to_ticks


def _window_in(content: Mapping[str, object]) -> _Window:
    session, start, end = (content.get(k) for k in ("session", "from_ticks", "to_ticks"))
    if isinstance(session, int) and isinstance(start, int) and isinstance(end, int):
        return _Window(session, start, end)
    return _Window(0, 0, -1)
