"""Processes by pid and start, so that a number used again is never taken for the old one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

#: Where "starttime" stands behind the name in /proc/PID/stat (proc(5): field 22, the name is 2).
_START = 19


class Process(NamedTuple):
    """A process for good: a pid and when it began, in clock ticks since boot (proc(5), stat)."""

    pid: int
    started_ticks: int


class Stat(NamedTuple):
    """What /proc/PID/stat says of one process now."""

    process: Process
    state: str
    parent_pid: int
    session: int

    @property
    def is_alive(self) -> bool:
        """Whether it can still run: a zombie cannot."""
        return self.state not in "ZX"

    @property
    def is_stopped(self) -> bool:
        """Whether it was frozen by a signal, or by a debugger: it answers nobody."""
        return self.state in "Tt"


def look(pid: int) -> Stat | None:
    """Return what the process is doing, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    if len(fields) <= _START:
        return None
    process = Process(pid, int(fields[_START]))
    return Stat(process, fields[0].decode(), int(fields[1]), int(fields[3]))


def seen(process: Process) -> Stat | None:
    """Return what this very process is doing, or None if it is gone."""
    stat = look(process.pid)
    return stat if stat is not None and stat.process == process and stat.is_alive else None


def has_argument(pid: int, text: str) -> bool:
    """Say whether the text stands in the command line, or the title, of our process."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
    except OSError:
        return False
    return any(os.fsencode(text) in word for word in words_of(pid))


def words_of(pid: int) -> list[bytes]:
    """Return the command line of the process; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def everyone() -> Iterator[Stat]:
    """Yield every process of the machine that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := look(int(name))) is not None:
            yield stat


def kill(process: Process) -> None:
    """Kill this very process, a frozen one too; nothing happens if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        # Looked at after it was opened: the descriptor cannot come to mean another one.
        if seen(process) is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(descriptor)
