"""The descriptors between a job and whoever minds it.

Made by the shim before it knows more than the kind of output. The private module `_socket`
is the C half of `socket`: the shim lives as long as its job, and each page that the Python
half touches stays with it for good (40 pages, measured with 200 shims).
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair

from agentd.core.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NONE = -1
#: The kinds of core.job.OutputKind that need a channel of their own.
SPLIT = "split"
FILES = "files"
TERMINAL = "terminal"


class ReadEnds(Value):
    """Our ends, kept by the warden too, so that a killed shim costs the job nothing.

    -1 for one that is not used. `out` is the master side with a terminal; `start` is the talk
    with the leader until it is executed: see `start`.
    """

    __slots__ = ("out", "err", "start")  # noqa: RUF023  # as in __init__

    def __init__(self, out: int = _NONE, err: int = _NONE, start: int = _NONE) -> None:
        self.out = out
        self.err = err
        self.start = start

    def named(self) -> dict[str, int]:
        """Return those in use by name."""
        every = {"out": self.out, "err": self.err, "start": self.start}
        return {name: descriptor for name, descriptor in every.items() if descriptor >= 0}


class JobEnds(Value):
    """The leader's ends; -1 for one that is not used. `terminal` is the slave side."""

    __slots__ = ("stdout", "stderr", "terminal", "start")  # noqa: RUF023  # as in __init__

    def __init__(
        self,
        stdout: int = _NONE,
        stderr: int = _NONE,
        terminal: int = _NONE,
        start: int = _NONE,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal
        self.start = start

    def close(self) -> None:
        """Leave them to the job alone, so that its end is an end of file."""
        for descriptor in {self.stdout, self.stderr, self.terminal, self.start} - {_NONE}:
            os.close(descriptor)


def open_channels(kind: str) -> tuple[ReadEnds, JobEnds]:
    """Make the pipes or the pseudo-terminal; our output ends are non-blocking."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    start, job_start = ours.detach(), theirs.detach()
    out = err = stdout = stderr = terminal = _NONE
    if kind == TERMINAL:
        out, terminal = os.openpty()
    elif kind != FILES:
        out, stdout = os.pipe2(os.O_CLOEXEC)
        stderr = stdout
        if kind == SPLIT:
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


def find_again(pids: Iterable[int], out_inode: int, err_inode: int) -> ReadEnds:
    """Open the read ends of a job's pipes through the processes that hold them.

    For a rescue shim whose warden was killed as well: nobody kept a read end but the job.
    The inodes as the pidfile names them.
    """
    found: dict[int, int] = {}
    for pid in pids:
        for inode, path in _pipes_of(pid):
            if inode in (out_inode, err_inode) and inode not in found:
                try:
                    found[inode] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError:
                    # The process ended meanwhile; another may hold it too.
                    continue
    return ReadEnds(found.get(out_inode, _NONE), found.get(err_inode, _NONE))


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
