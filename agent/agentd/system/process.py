"""Processes in /proc (proc(5)): who they are, whose children, and a signal that hits only them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator

from agentd.core.job import ProcessId

# Fields of /proc/PID/stat counted from the one after the command name.
_STATE = 0
_PPID = 1
_SESSION = 3
_START_TICKS = 19


def _stat(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            data = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command name may hold spaces and parentheses; the last one closes it.
    return data[data.rindex(b")") + 2 :].split()


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a process that exists (a zombie too), or None."""
    fields = _stat(pid)
    return None if fields is None else ProcessId(pid, int(fields[_START_TICKS]))


def is_alive(process: ProcessId) -> bool:
    """Say whether exactly this process runs; a zombie does not."""
    fields = _stat(process.pid)
    return (
        fields is not None
        and int(fields[_START_TICKS]) == process.start_ticks
        and fields[_STATE] not in (b"Z", b"X")
    )


def is_running(pid: int) -> bool:
    """Say whether a process has this pid and is no zombie."""
    fields = _stat(pid)
    return fields is not None and fields[_STATE] not in (b"Z", b"X")


def is_stopped(pid: int) -> bool:
    """Say whether a process has this pid and is stopped by a signal (state T)."""
    fields = _stat(pid)
    return fields is not None and fields[_STATE] == b"T"


def children(pid: int) -> list[int]:
    """Return the pids of its children, zombies included (/proc/PID/task/TID/children)."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found.extend(int(word) for word in file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        # It ended while we looked: then its children are somebody else's by now.
        return found
    return found


def descendants(pid: int) -> list[int]:
    """Return every process below `pid`, parents before their children."""
    found: list[int] = []
    seen: set[int] = {pid}
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child not in seen:
                seen.add(child)
                found.append(child)
                waiting.append(child)
    return found


def find_members(uid: str, leader: ProcessId | None) -> list[int]:
    """Return the living processes of a job that is not below us.

    Members carry the job's uid in the environment they were started with, or share a session
    with one that does, or descend from a member. A scan of all of /proc: milliseconds.
    """
    mark = b"AGENTCTL_JOB_UID=" + uid.encode()
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    members: set[int] = set()
    for pid in _own_pids():
        fields = _stat(pid)
        if fields is None or fields[_STATE] in (b"Z", b"X"):
            continue
        parents[pid], sessions[pid] = int(fields[_PPID]), int(fields[_SESSION])
        if (leader is not None and pid == leader.pid and is_alive(leader)) or _has_mark(pid, mark):
            members.add(pid)
    # Only sessions that a member leads are the job's own.
    own = {sessions[pid] for pid in members} & members
    members |= {pid for pid, session in sessions.items() if session in own}
    grew = True
    while grew:
        below = {pid for pid, parent in parents.items() if parent in members} - members
        members |= below
        grew = bool(below)
    members.discard(os.getpid())
    return sorted(members)


def _own_pids() -> Iterator[int]:
    me = os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == me:
                    yield int(name)
            except FileNotFoundError:
                continue


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            environment = file.read()
    except OSError:
        return False
    return environment.startswith(mark) or b"\0" + mark in environment


def send(process: ProcessId, signal_number: int) -> bool:
    """Send a signal to exactly this process; False if it is gone.

    The pidfd is opened first and the identity checked through it, so that a recycled pid
    cannot be hit (pidfd_open(2)).
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(pidfd, signal_number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def send_all(pids: Iterable[int], signal_number: int) -> None:
    """Send a signal to each process that still is who it was when listed."""
    for pid in pids:
        process = identify(pid)
        if process is not None:
            send(process, signal_number)
