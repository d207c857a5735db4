"""Processes in /proc (proc(5)): who they are, whose children, and a signal that hits only them.

For shims and leaders, so without dataclasses and enums; everybody else uses `process`.
"""

from __future__ import annotations

import os

from agentd.core.value import Value
from agentd.system.signals import pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol
else:
    Protocol = object


class Identity(Protocol):
    """A process for good: pid and start; core.job.ProcessId is one."""

    @property
    def pid(self) -> int:
        """Who it is now."""

    @property
    def start_ticks(self) -> int:
        """Who it is for good: field 22 of /proc/PID/stat."""


# Fields of /proc/PID/stat counted from the one after the command name.
_STATE = 0
_PPID = 1
_SESSION = 3
_THREADS = 17
_START_TICKS = 19
_EXIT_CODE = 49
_READ_BYTES = 1 << 16
#: Command name of a warden, as ps shows it.
AGENT_NAME = b"agentd-warden"


class Process(Value):
    """A process for good."""

    __slots__ = ("pid", "start_ticks")

    def __init__(self, pid: int, start_ticks: int) -> None:
        """`start_ticks` is field 22 of /proc/PID/stat."""
        self.pid = pid
        self.start_ticks = start_ticks


def read_whole(path: str) -> bytes:
    """Return what /proc has to say; raises FileNotFoundError or ProcessLookupError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _READ_BYTES)
        # The kernel tells some eight hundred children at a time.
        while more := os.read(descriptor, _READ_BYTES):
            data += more
    finally:
        os.close(descriptor)
    return data


def _stat(pid: int) -> list[bytes] | None:
    try:
        data = read_whole(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command name may hold spaces and parentheses; the last one closes it.
    return data[data.rindex(b")") + 2 :].split()


def _is_dead(fields: list[bytes]) -> bool:
    # The state is the first thread's: others may run on behind it (pthread_exit(3) in main).
    return fields[_STATE] in (b"Z", b"X") and int(fields[_THREADS]) <= 1


def start_ticks(pid: int) -> int | None:
    """Return when a process that exists (a zombie too) was started, or None."""
    fields = _stat(pid)
    return None if fields is None else int(fields[_START_TICKS])


def is_alive(process: Identity) -> bool:
    """Say whether exactly this process runs; a zombie does not."""
    fields = _stat(process.pid)
    return (
        fields is not None
        and int(fields[_START_TICKS]) == process.start_ticks
        and not _is_dead(fields)
    )


def zombie_status(process: Identity) -> int | None:
    """Return the raw wait status of a zombie that somebody else has to reap (field 52, proc(5)).

    None: it lives, is gone, or may not show it to us. Whom the kernel does not show the status it
    shows a 0 (ptrace(2), PTRACE_MODE_READ), so a zombie that has changed its ids is not asked.
    """
    fields = _stat(process.pid)
    if fields is None or not _is_dead(fields):
        return None
    if int(fields[_START_TICKS]) != process.start_ticks or not _has_our_ids(process.pid):
        return None
    return int(fields[_EXIT_CODE])


def _has_our_ids(pid: int) -> bool:
    try:
        lines = read_whole(f"/proc/{pid}/status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Real, effective, saved and file system id: all four have to be ours.
    ours = {b"Uid:": b"%d" % os.geteuid(), b"Gid:": b"%d" % os.getegid()}
    words = [line.split() for line in lines]
    return all(set(word[1:]) == {ours[word[0]]} for word in words if word and word[0] in ours)


def is_running(pid: int) -> bool:
    """Say whether a process has this pid and is no zombie."""
    fields = _stat(pid)
    return fields is not None and not _is_dead(fields)


def is_agent(pid: int) -> bool:
    """Say whether this is a warden: started by a job or not, an agent belongs to no job."""
    try:
        return read_whole(f"/proc/{pid}/comm").strip() == AGENT_NAME
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Say whether a process has this pid and is stopped by a signal (state T)."""
    fields = _stat(pid)
    return fields is not None and fields[_STATE] == b"T"


def group_of(pid: int) -> int:
    """Return its process group, or -1 if there is no such process."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def own_children() -> list[int]:
    """Return the pids of the children of this process, which has one thread."""
    return [int(word) for word in read_whole("/proc/thread-self/children").split()]


def children(pid: int) -> list[int]:
    """Return the pids of its children, zombies included (/proc/PID/task/TID/children)."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            found.extend(map(int, read_whole(f"/proc/{pid}/task/{thread}/children").split()))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # It ended while we looked: then its children are somebody else's by now. Or it is
        # hidden from us (hidepid, after sudo).
        return found
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, parents before their children, but no agent's.

    Not at one instant: a process that forks and ends meanwhile may hide its child.
    """
    found: list[int] = []
    seen: set[int] = {pid}
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child not in seen and not is_agent(child):
                seen.add(child)
                found.append(child)
                waiting.append(child)
    return found


def find_members(uid: str, leader: Identity | None) -> list[int]:
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
        if fields is None or _is_dead(fields) or is_agent(pid):
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
        environment = read_whole(f"/proc/{pid}/environ")
    except OSError:
        return False
    return environment.startswith(mark) or b"\0" + mark in environment


def send(process: Identity, signal_number: int) -> bool:
    """Send a signal to exactly this process; False if it is gone.

    The pidfd is opened first and the identity checked through it, so that a recycled pid
    cannot be hit (pidfd_open(2)).
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if start_ticks(process.pid) != process.start_ticks:
            return False
        pidfd_send_signal(pidfd, signal_number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def send_all(pids: Iterable[int], signal_number: int) -> None:
    """Send a signal to each; between its identification here and the signal no other is hit."""
    for pid in pids:
        ticks = start_ticks(pid)
        if ticks is not None:
            send(Process(pid, ticks), signal_number)
