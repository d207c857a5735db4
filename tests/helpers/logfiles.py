"""Log files as a shim leaves them in a job directory, written by hand."""

from __future__ import annotations

from pathlib import Path

from agentd.core.job import ProcessId
from agentd.system import jobdir, logdir, records


def segment(directory: Path, offset: int, data: bytes, stream: str = "out") -> Path:
    """Write a segment that begins at `offset` and return its path."""
    path = directory / logdir.segment_name(stream, offset)
    path.write_bytes(data)
    return path


def time_index(directory: Path, *entries: tuple[int, int], torn: bytes = b"") -> None:
    """Write the time index of stdout: (offset, wall nanoseconds), and a torn last entry."""
    data = b"".join(logdir.INDEX_ENTRY.pack(*entry) for entry in entries)
    (directory / "out.idx").write_bytes(data + torn)


def begin(directory: Path, *, out_base_bytes: int = 0, err_base_bytes: int = 0) -> None:
    """Write the pidfile of a job that has begun."""
    record = records.PidRecord(
        "boot", ProcessId(1, 1), ProcessId(2, 2), 0, 0, out_base_bytes, err_base_bytes
    )
    (directory / jobdir.PID).write_bytes(records.dump_pid(record))
