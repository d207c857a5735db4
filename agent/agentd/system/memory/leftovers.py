"""What a job leaves in /dev/shm: files and POSIX semaphores that outlive every process.

They are memory, and no process's (shm_overview(7)). Only ever reported; removed on request.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

SHM = "/dev/shm"  # noqa: S108  # the place itself
_BLOCK_BYTES = 512
_READ_BYTES = 1 << 16
_File = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that nobody has open any more."""

    name: str
    #: What it takes of the memory: the pages that are there, not its length.
    size_bytes: int


def used_bytes(shm: str = SHM) -> int:
    """Return how much is in all files there, whosever (statvfs(3)); 0 if there is no such place."""
    try:
        status = os.statvfs(shm)
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def attributed(pids: Iterable[int], *, shm: str = SHM, proc: str = "/proc") -> frozenset[str]:
    """Return the names of our files in /dev/shm that these processes have open or mapped.

    To be asked while the job lives: afterwards nothing tells whose they were. Files that are
    deleted already are not among them: they go with the last process. Some 0.1 ms a process, and
    nothing to speak of if we have no file there.
    """
    ours = {(status.st_dev, status.st_ino): name for name, status in _ours(shm)}
    used = _used(pids, set(ours), shm, proc) if ours else set()
    return frozenset(ours[file] for file in used)


def orphaned(names: Iterable[str], *, shm: str = SHM, proc: str = "/proc") -> tuple[Leftover, ...]:
    """Return which of these are still there, ours, and not in use by any of our processes."""
    wanted = set(names)
    there = {
        (status.st_dev, status.st_ino): (name, status)
        for name, status in _ours(shm)
        if name in wanted
    }
    used = _used(_own_pids(proc), set(there), shm, proc) if there else set()
    return tuple(
        Leftover(name, status.st_blocks * _BLOCK_BYTES)
        for file, (name, status) in sorted(there.items(), key=lambda item: item[1][0])
        if file not in used
    )


def remove(names: Iterable[str], *, shm: str = SHM, proc: str = "/proc") -> tuple[Leftover, ...]:
    """Remove those that are still left over, and return them.

    Never what is not ours, no regular file, a symbolic link, or in use. What cannot be removed
    is left out.
    """
    removed: list[Leftover] = []
    for leftover in orphaned(names, shm=shm, proc=proc):
        try:
            os.unlink(f"{shm}/{leftover.name}")
        except OSError:
            continue
        removed.append(leftover)
    return tuple(removed)


def linked_bytes(pids: Iterable[int], *, shm: str = SHM, proc: str = "/proc") -> int:
    """Return what those of `attributed` take: it does not come back when the processes end."""
    sizes = {
        (status.st_dev, status.st_ino): status.st_blocks * _BLOCK_BYTES for _, status in _ours(shm)
    }
    return sum(sizes[file] for file in _used(pids, set(sizes), shm, proc)) if sizes else 0


def _ours(shm: str) -> list[tuple[str, os.stat_result]]:
    """Return our regular files there; links are not followed."""
    me = os.geteuid()
    found: list[tuple[str, os.stat_result]] = []
    try:
        names = os.listdir(shm)
    except OSError:
        return found
    for name in names:
        try:
            status = os.stat(f"{shm}/{name}", follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_uid == me:
            found.append((name, status))
    return found


def _used(pids: Iterable[int], files: set[_File], shm: str, proc: str) -> set[_File]:
    found: set[_File] = set()
    for pid in pids:
        found |= _mapped(f"{proc}/{pid}/maps", files)
        found |= _opened(f"{proc}/{pid}/fd", files, os.fsencode(shm) + b"/")
    return found


def _mapped(path: str, files: set[_File]) -> set[_File]:
    """Lines `ADDRESS PERMISSIONS OFFSET MAJOR:MINOR INODE NAME` (proc_pid_maps(5))."""
    found: set[_File] = set()
    for line in _read(path).splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[4] == b"0":  # noqa: PLR2004  # most lines are of no file
            continue
        try:
            major, minor = (int(part, 16) for part in fields[3].split(b":"))
            file = (os.makedev(major, minor), int(fields[4]))
        except ValueError:
            continue
        if file in files:
            found.add(file)
    return found


def _opened(directory: str, files: set[_File], prefix: bytes) -> set[_File]:
    found: set[_File] = set()
    try:
        names = os.listdir(directory)
    except OSError:
        return found
    for name in names:
        path = os.fsencode(f"{directory}/{name}")
        try:
            # The link first: to stat a file of a dead network file system takes for ever.
            if not os.readlink(path).startswith(prefix):
                continue
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in files:
            found.add((status.st_dev, status.st_ino))
    return found


def _own_pids(proc: str) -> list[int]:
    me = os.geteuid()
    found: list[int] = []
    try:
        names = os.listdir(proc)
    except OSError:
        return found
    for name in names:
        try:
            if name.isdigit() and os.stat(f"{proc}/{name}").st_uid == me:
                found.append(int(name))
        except OSError:
            continue
    return found


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts: list[bytes] = []
    try:
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(parts)
