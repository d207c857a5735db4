"""Which processes belong to one agent, found by what they carry, not by what is reported."""

from __future__ import annotations

import os

from tests.helpers.wait import read_stat


def processes_of(root: str, uids: frozenset[str] = frozenset()) -> dict[int, str]:
    """Return pid and command line of every living process of the agent under `root`.

    One belongs to it if its environment names `root` in AGENTD_STATE_DIR or one of `uids` in
    AGENTCTL_JOB_UID, if its working directory is below `root`, or if it descends from such
    a process. This process itself is never counted.
    """
    parents = _living()
    parents.pop(os.getpid(), None)
    marks = _marks(root, uids)
    found = {pid for pid in parents if _carries(pid, root, marks)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: command_line(pid) for pid in found}


def belongs(pid: int, root: str) -> bool:
    """Say whether the process carries the state directory of the agent under `root`."""
    return _carries(pid, root, _marks(root, frozenset()))


def command_line(pid: int) -> str:
    """Return the arguments of a process with spaces between, empty if it is gone."""
    return b" ".join(arguments(pid)).decode(errors="replace")


def arguments(pid: int) -> list[bytes]:
    """Return the arguments of a process, none if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().removesuffix(b"\0").split(b"\0")
    except OSError:
        return []


def children_of(pid: int) -> list[int]:
    """Return the living children of a process."""
    return [child for child, parent in _living().items() if parent == pid]


def job_of(pid: int, state_dir: str) -> int:
    """Return the id of the job in whose directory the process stands, 0 if it stands elsewhere."""
    try:
        name = os.readlink(f"/proc/{pid}/cwd").removeprefix(f"{state_dir}/jobs/")
    except OSError:
        return 0
    return int(name) if name.isascii() and name.isdigit() else 0


def session_members(leader: int) -> list[int]:
    """Return the living processes of the session that `leader` began (setsid(2))."""
    return [pid for pid in _living() if _session_of(pid) == leader]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        # Gone since it was listed.
        return -1


def listening_below(root: str) -> list[str]:
    """Return the unix sockets bound to a path below `root` (proc(5), /proc/net/unix)."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        paths = [line.split()[-1] for line in file]
    return [path for path in paths if path.startswith(f"{root}/")]


def _living() -> dict[int, int]:
    stats = {int(name): read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: stat.parent for pid, stat in stats.items() if stat and not stat.is_dead}


def _marks(root: str, uids: frozenset[str]) -> tuple[bytes, ...]:
    uid_marks = [f"AGENTCTL_JOB_UID={uid}" for uid in uids]
    return tuple(map(str.encode, (f"AGENTD_STATE_DIR={root}/", *uid_marks)))


def _carries(pid: int, root: str, marks: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read().split(b"\0")
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        # Gone, a zombie, or not ours to look at: then it is no child of ours either.
        return False
    return cwd.startswith(f"{root}/") or any(entry.startswith(marks) for entry in environment)
