"""Cgroups of jobs below one that was delegated to us (cgroups(7), cgroup-v2.rst).

    <base>/agent       the spawner and the shims
    <base>/job-<id>    one job: entered by its leader before exec, so that all is charged to it

Plain file writes. A job's cgroup outlives its last process, so what it used and whom the
kernel killed is read after the end. For shims and leaders, so without dataclasses.
"""

from __future__ import annotations

import errno
import os
from time import sleep

from agentd.core.value import Value
from agentd.system.proc import read_whole

#: Where cgroup v2 is mounted on its own ("unified"); beside v1 nothing of it is delegated.
ROOT = "/sys/fs/cgroup"
AGENT = "agent"
#: The guard acts at the limit; the kernel a little above, should the guard be too late.
_MARGIN_PERCENT = 5
#: The kernel lets go of a cgroup a moment after its last process is gone.
_REMOVAL_LOOKS = 20
_BETWEEN_LOOKS_S = 0.01


class OomKills(Value):
    """What the kernel's out-of-memory killer did in one cgroup (memory.events)."""

    __slots__ = ("is_own_limit", "killed_processes")

    def __init__(self, killed_processes: int, is_own_limit: bool) -> None:  # noqa: FBT001  # a field
        """`is_own_limit`: memory.max was the reason, and not the host's shortage."""
        self.killed_processes = killed_processes
        self.is_own_limit = is_own_limit


def job_path(base: str, job_id: int) -> str:
    """Return the cgroup of a job, made or not. Pure."""
    return f"{base}/job-{job_id}"


def maximum_bytes(limit_bytes: int) -> int:
    """Return memory.max for a job's limit: a little more, in whole pages. Pure."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    with_margin = limit_bytes + limit_bytes * _MARGIN_PERCENT // 100
    return -(-with_margin // page_bytes) * page_bytes


def enter(path: str, limit_bytes: int) -> None:
    """Make a job's cgroup and move this process into it. 0: without a limit.

    With memory.oom.group the kernel ends the job as a whole, and not one process of it.

    Raises:
        OSError: As the kernel reports it; this process is where it was, and no cgroup is left.

    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # Of a launch that was killed before the program began.
        pass
    try:
        if limit_bytes:
            _write(f"{path}/memory.max", b"%d" % maximum_bytes(limit_bytes))
        _write(f"{path}/memory.oom.group", b"1")
        _write(f"{path}/cgroup.procs", b"%d" % os.getpid())
    except OSError:
        _rmdir(path)
        raise


def peak_bytes(path: str) -> int | None:
    """Return the most memory a cgroup ever held, page cache included; None before Linux 5.19."""
    try:
        return int(read_whole(f"{path}/memory.peak"))
    except (OSError, ValueError):
        return None


def oom_kills(path: str) -> OomKills | None:
    """Return what the out-of-memory killer did in a cgroup; None where that cannot be known.

    `oom` counts the times that a limit of this cgroup left no way out, `oom_kill` and
    `oom_group_kill` count kills for whatever reason (cgroup-v2.rst, memory.events).
    """
    try:
        events = _counters(read_whole(f"{path}/memory.events"))
    except (OSError, ValueError):
        return None
    killed = max(events.get(b"oom_kill", 0), events.get(b"oom_group_kill", 0))
    return OomKills(killed, events.get(b"oom", 0) > 0)


def host_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory since boot.

    /proc/vmstat, `oom_kill`; None before Linux 4.13. Kills within a cgroup count as well.
    """
    try:
        data = read_whole("/proc/vmstat")
    except OSError:
        return None
    _, name, rest = data.partition(b"\noom_kill ")
    return int(rest[: rest.index(b"\n")]) if name else None


def remove(path: str) -> bool:
    """Remove a cgroup of which every process is gone, and those the job made below it.

    Waits for what the kernel has not let go of yet, 0.2 s at most. False: somebody is in it.
    """
    for look in range(_REMOVAL_LOOKS):
        if look:
            sleep(_BETWEEN_LOOKS_S)
        if _remove_all(path):
            return True
    return False


def of_process(pid: int) -> str | None:
    """Return the path of a process in the v2 hierarchy ("0::/…"); None: it is gone, or no v2."""
    try:
        lines = read_whole(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:])
    return None


def is_unified(root: str = ROOT) -> bool:
    """Say whether the host has cgroup v2 alone: beside v1, memory is v1's and not delegated."""
    return os.path.exists(f"{root}/cgroup.controllers")


def controllers(path: str) -> list[str]:
    """Return the controllers that a cgroup may hand on. Raises OSError."""
    return read_whole(f"{path}/cgroup.controllers").decode().split()


def prepare(path: str, wanted: tuple[str, ...]) -> None:
    """Make a delegated cgroup ready for jobs: its processes below `agent`, controllers handed on.

    `wanted`: those to hand on, as far as they are there.

    A cgroup that hands controllers on may hold no process (cgroup-v2.rst, "No Internal Process
    Constraint"), and the spawner may fork in between: so once more until none is left.

    Raises:
        OSError: As the kernel reports it; EBUSY: there were always new processes.

    """
    agent = f"{path}/{AGENT}"
    try:
        os.mkdir(agent, 0o700)
    except FileExistsError:
        pass
    there = controllers(path)
    handed_on = " ".join(f"+{name}" for name in wanted if name in there)
    for _ in range(_REMOVAL_LOOKS):
        for pid in read_whole(f"{path}/cgroup.procs").split():
            _move(pid, agent)
        try:
            _write(f"{path}/cgroup.subtree_control", handed_on.encode())
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            continue
        return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


def _move(pid: bytes, path: str) -> None:
    try:
        _write(f"{path}/cgroup.procs", pid)
    except ProcessLookupError:
        # It has ended meanwhile.
        return


def _counters(data: bytes) -> dict[bytes, int]:
    pairs = (line.split() for line in data.splitlines())
    return {name: int(value) for name, value in pairs}


def _below(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _remove_all(path: str) -> bool:
    if _rmdir(path):
        return True
    for name in _below(path):
        _remove_all(f"{path}/{name}")
    return _rmdir(path)


def _rmdir(path: str) -> bool:
    """Remove a cgroup; True if there is none (any more)."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
