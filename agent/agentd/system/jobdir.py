"""One job directory: what stands in it and how it is written.

Everything the end of a job needs room for is allocated at submit (`create`): a full disk
refuses a new job and never costs a running one its exit record.

    spec.json            what was asked
    pid                  pidfile, locked by the shim for life
    exit.json.new        room for the exit record; becomes exit.json
    stop.json            why and until when a stop ladder runs
    verdict.json         why the guard acts on it, before it does
    out-<offset>.log     segments; err-<offset>.log with split output
    out.idx out.end      time index; offset up to which bytes were dropped on a full disk
    ctl                  the shim's control socket, once the warden that forked it is gone
"""

from __future__ import annotations

import os

from agentd.core.job import OUTPUT_KINDS, FinalState, JobSpec, OutputKind
from agentd.system import jobfiles, records
from agentd.system.crashpoint import reach
from agentd.system.files import write_all, write_durable
from agentd.system.jobfiles import (
    CONTROL,
    EXIT,
    EXIT_ROOM,
    EXIT_ROOM_BYTES,
    PID,
    PID_ROOM_BYTES,
    SPEC,
    STOP,
)
from agentd.system.records import PidRecord, StopRecord

__all__ = [
    "CONTROL",
    "EXIT",
    "EXIT_ROOM",
    "EXIT_ROOM_BYTES",
    "PID",
    "PID_ROOM_BYTES",
    "SPEC",
    "STOP",
    "create",
    "read_exit",
    "read_pid",
    "read_spec",
    "read_stop",
    "write_exit",
    "write_pid",
]

#: Which logs a job of each kind has, and so which may end in a hole.
_END_MARKS: dict[OutputKind, tuple[str, ...]] = {
    OutputKind.MERGED: ("out.end",),
    OutputKind.SPLIT: ("out.end", "err.end"),
    OutputKind.FILES: (),
    OutputKind.TERMINAL: ("out.end",),
}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def create(directory: str, spec: JobSpec) -> None:
    """Make the directory, durable, with room for everything its end will need.

    Raises:
        OSError: As the kernel reports it; the caller removes what is left of the directory.

    """
    os.mkdir(directory, 0o700)
    descriptor = os.open(f"{directory}/{EXIT_ROOM}", _CREATE, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, EXIT_ROOM_BYTES)
    finally:
        os.close(descriptor)
    for name in (PID, *_END_MARKS[OUTPUT_KINDS[type(spec.output)]]):
        descriptor = os.open(f"{directory}/{name}", _CREATE, 0o600)
        try:
            # Spaces, not a hole: overwriting them later needs no new block.
            write_all(descriptor, b" " * PID_ROOM_BYTES)
        finally:
            os.close(descriptor)
    reach("server.submit.before_spec")
    write_durable(f"{directory}/{SPEC}", records.dump_spec(spec))


def read_spec(directory: str) -> JobSpec | None:
    """Return the spec, or None if the directory was never completed. Raises RecordCorruptError."""
    data = jobfiles.read(f"{directory}/{SPEC}")
    return None if data is None else records.load_spec(data)


def write_pid(descriptor: int, record: PidRecord) -> None:
    """Write the pidfile as a leader does."""
    jobfiles.write_pid(descriptor, records.dump_pid(record))


def read_pid(directory: str) -> PidRecord | None:
    """Return who minds and leads the job, or None before the start. Raises RecordCorruptError."""
    data = jobfiles.read(f"{directory}/{PID}")
    return None if data is None else records.load_pid(data)


def read_stop(directory: str) -> StopRecord | None:
    """Return the stop under way, if any. Raises RecordCorruptError."""
    data = jobfiles.read(f"{directory}/{STOP}")
    return None if data is None else records.load_stop(data)


def write_exit(directory: str, final: FinalState) -> None:
    """Write the exit record as a shim does. Raises OSError; the call may then be repeated."""
    jobfiles.write_exit(directory, records.dump_exit(final))


def read_exit(directory: str) -> FinalState | None:
    """Return the final state, or None while there is no exit record. Raises RecordCorruptError."""
    data = jobfiles.read(f"{directory}/{EXIT}")
    return None if data is None else records.load_exit(data)
