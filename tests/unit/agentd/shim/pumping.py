"""A pump at work in a directory of its own, and what it has left there."""

from __future__ import annotations

import contextlib
import os
import tempfile
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentd.shim.pump import LogLimits, Progress, Pump
from agentd.system import logdir
from agentd.system.logdir import INDEX_ENTRY
from tests.helpers.descriptors import held

ROOMY = LogLimits(segment_bytes=1 << 20, retention_bytes=1 << 30)
#: What a pipe takes without a reader.
PIPE_BYTES = 1 << 16


@dataclass(slots=True)
class Station:
    """One stream from a job's end to a log; the pump may be killed and replaced."""

    pump: Pump
    #: The job's end.
    sink: int
    limits: LogLimits
    _before: frozenset[tuple[int, str]]

    def feed(self, data: bytes) -> None:
        """Write as a job does, pumping whenever the channel is full."""
        while data:
            try:
                data = data[os.write(self.sink, data) :]
            except BlockingIOError:
                self.drain()

    def drain(self) -> Progress:
        """Pump until there is nothing to move; return why."""
        while (progress := self.pump.step()) is Progress.MOVED:
            pass
        return progress

    def finish(self) -> None:
        """Close the job's end and pump to the end."""
        os.close(self.sink)
        self.sink = -1
        assert self.drain() is Progress.END

    def kill(self) -> None:
        """End the pump as SIGKILL does, between two of its steps, and have another resume."""
        self._close_all_but({self.pump.source, self.sink})
        self.pump = Pump("out", self.pump.source, self.limits)
        self.pump.resume()

    def close(self) -> None:
        """Leave nothing open."""
        self._close_all_but(set())

    def _close_all_but(self, kept: set[int]) -> None:
        for descriptor, _ in held() - self._before:
            if descriptor not in kept:
                os.close(descriptor)


@contextlib.contextmanager
def station(limits: LogLimits = ROOMY, *, terminal: bool = False) -> Iterator[Station]:
    """Yield a pump in the current directory with a job's end, both non-blocking."""
    before = held()
    if terminal:
        source, sink = os.openpty()
        tty.setraw(sink)
    else:
        source, sink = os.pipe()
    os.set_blocking(source, False)
    os.set_blocking(sink, False)
    at = Station(Pump("out", source, limits), sink, limits, before)
    try:
        yield at
    finally:
        at.close()


@contextlib.contextmanager
def fresh_directory() -> Iterator[str]:
    """Yield a new current directory with a blank end mark, as a submit leaves it."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        blank_mark()
        yield directory


def blank_mark() -> None:
    """Reserve the mark of lost bytes in the current directory."""
    Path("out.end").write_bytes(b" " * 1024)


def pieces() -> list[tuple[int, bytes]]:
    """Return offset and content of every segment in the current directory, in order."""
    return [
        (segment.offset, Path(logdir.segment_name("out", segment.offset)).read_bytes())
        for segment in logdir.list_segments(".", "out")
    ]


def whole() -> bytes:
    """Return the log in one piece; a hole in it is an error."""
    data = b""
    for offset, piece in pieces():
        assert offset == len(data), f"a hole from {len(data)} to {offset}"
        data += piece
    return data


def index() -> list[tuple[int, int]]:
    """Return the time index."""
    return list(INDEX_ENTRY.iter_unpack(Path("out.idx").read_bytes()))


def pattern(size_bytes: int) -> bytes:
    """Return bytes of which each eight say where they stand."""
    words = (b"%07x\n" % number for number in range(size_bytes // 8 + 1))
    return b"".join(words)[:size_bytes]
