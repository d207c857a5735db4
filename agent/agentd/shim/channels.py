"""The descriptors between a job and whoever minds it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from dataclasses import dataclass

from agentd.core.job import FileOutput, JobSpec, SplitOutput, TerminalOutput
from agentd.shim.leader import JobEnds, StartError, parse_report
from agentd.system import packets

_WINSIZE = struct.Struct("HHHH")


@dataclass(frozen=True, slots=True)
class ReadEnds:
    """Our ends, kept by the warden too, so that a killed shim costs the job nothing.

    -1 for one that is not used. `out` is the master side with a terminal.
    """

    out: int = -1
    err: int = -1
    #: What failed before the program ran; end of file once it was executed.
    status: int = -1

    def named(self) -> dict[str, int]:
        """Return those in use by name."""
        every = {"out": self.out, "err": self.err, "status": self.status}
        return {name: descriptor for name, descriptor in every.items() if descriptor >= 0}


def open_channels(spec: JobSpec) -> tuple[ReadEnds, JobEnds]:
    """Make the pipes or the pseudo-terminal the spec asks for; ours are non-blocking."""
    status_read, status_write = (end.detach() for end in packets.pair())
    out = job_out = err = job_err = terminal = -1
    if isinstance(spec.output, TerminalOutput):
        out, terminal = _open_terminal(spec.output)
    elif not isinstance(spec.output, FileOutput):
        out, job_out = os.pipe2(os.O_CLOEXEC)
        err, job_err = os.pipe2(os.O_CLOEXEC) if isinstance(spec.output, SplitOutput) else (-1, job_out)
    for descriptor in (out, err):
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
    return ReadEnds(out, err, status_read), JobEnds(job_out, job_err, terminal, status_write)


def _open_terminal(size: TerminalOutput) -> tuple[int, int]:
    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, _WINSIZE.pack(size.rows, size.columns, 0, 0))
    return master, slave


def close_job_ends(ends: JobEnds) -> None:
    """Leave them to the job alone, so that its end is an end of file."""
    for descriptor in {ends.stdout, ends.stderr, ends.terminal, ends.status} - {-1}:
        os.close(descriptor)


def peek_status(status: int) -> StartError | None:
    """Return what the leader reported before it ended, or None: the program was executed.

    The report is left where it is: a rescue shim must read the same.

    Raises:
        BlockingIOError: Neither is known yet.

    """
    with socket.socket(fileno=os.dup(status)) as channel:
        return parse_report(channel.recv(packets.MAX_PACKET_BYTES, socket.MSG_PEEK))
