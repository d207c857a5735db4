"""The descriptors between a job and whoever minds it.

Made by the shim before it knows more than the kind of output. The private module `_socket`
is the C half of `socket`: the shim lives as long as its job, and each page that the Python
half touches stays with it for good (40 pages, measured with 200 shims).
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentd.core.job import OutputKind
from agentd.system.records import PidRecord

_NONE = -1


@dataclass(frozen=True, slots=True)
class ReadEnds:
    """Our ends, kept by the warden too, so that a killed shim costs the job nothing.

    -1 for one that is not used. `out` is the master side with a terminal.
    """

    out: int = _NONE
    err: int = _NONE
    #: The talk with the leader until it is executed: see `start`.
    start: int = _NONE

    def named(self) -> dict[str, int]:
        """Return those in use by name."""
        every = {"out": self.out, "err": self.err, "start": self.start}
        return {name: descriptor for name, descriptor in every.items() if descriptor >= 0}


@dataclass(frozen=True, slots=True)
class JobEnds:
    """The leader's ends; -1 for one that is not used."""

    stdout: int = _NONE
    stderr: int = _NONE
    #: Slave side of the pseudo-terminal.
    terminal: int = _NONE
    start: int = _NONE

    def close(self) -> None:
        """Leave them to the job alone, so that its end is an end of file."""
        for descriptor in {self.stdout, self.stderr, self.terminal, self.start} - {_NONE}:
            os.close(descriptor)


def open_channels(kind: OutputKind) -> tuple[ReadEnds, JobEnds]:
    """Make the pipes or the pseudo-terminal; our output ends are non-blocking."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    start, job_start = ours.detach(), theirs.detach()
    out = err = stdout = stderr = terminal = _NONE
    if kind == OutputKind.TERMINAL:
        out, terminal = os.openpty()
    elif kind != OutputKind.FILES:
        out, stdout = os.pipe2(os.O_CLOEXEC)
        stderr = stdout
        if kind == OutputKind.SPLIT:
            err, stderr = os.pipe2(os.O_CLOEXEC)
    for descriptor in (out, err):
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
    return ReadEnds(out, err, start), JobEnds(stdout, stderr, terminal, job_start)


def pipe_inode(descriptor: int) -> int:
    """Return the inode of a pipe, its name for as long as anybody holds it; 0 for no pipe."""
    if descriptor < 0:
        return 0
    status = os.fstat(descriptor)
    return status.st_ino if stat.S_ISFIFO(status.st_mode) else 0


def find_again(pids: Iterable[int], record: PidRecord) -> ReadEnds:
    """Open the read ends of a job's pipes through the processes that hold them.

    For a rescue shim whose warden was killed as well: nobody kept a read end but the job.
    """
    found: dict[int, int] = {}
    for pid in pids:
        for inode, path in _pipes_of(pid):
            if inode in (record.out_pipe_inode, record.err_pipe_inode) and inode not in found:
                try:
                    found[inode] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError:
                    # The process ended meanwhile; another may hold it too.
                    continue
    return ReadEnds(
        found.get(record.out_pipe_inode, _NONE), found.get(record.err_pipe_inode, _NONE)
    )


def _pipes_of(pid: int) -> Iterator[tuple[int, str]]:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISFIFO(status.st_mode):
            yield status.st_ino, path
