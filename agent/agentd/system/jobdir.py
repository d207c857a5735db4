"""One job directory: what stands in it and how it is written.

Everything the end of a job needs room for is allocated at submit (`create`): a full disk
refuses a new job and never costs a running one its exit record.

    spec.json            what was asked
    pid                  pidfile, locked by the shim for life
    exit.json.new        room for the exit record; becomes exit.json
    stop.json            why and until when a stop ladder runs
    out-<offset>.log     segments; err-<offset>.log with split output
    out.idx out.end      time index; offset up to which bytes were dropped on a full disk
    ctl                  the shim's control socket
"""

from __future__ import annotations

import os

from agentd.core.job import OUTPUT_KINDS, FinalState, JobSpec, OutputKind
from agentd.system import records
from agentd.system.crashpoint import reach
from agentd.system.files import fsync_directory, write_all, write_durable
from agentd.system.records import PidRecord, StopRecord

SPEC = "spec.json"
PID = "pid"
EXIT = "exit.json"
EXIT_ROOM = "exit.json.new"
STOP = "stop.json"
CONTROL = "ctl"
#: More than any exit record needs.
EXIT_ROOM_BYTES = 4096
#: The pidfile, allocated at submit and overwritten in place; spaces mean: not begun.
PID_ROOM_BYTES = 1024

#: Which logs a job of each kind has, and so which may end in a hole.
_END_MARKS: dict[OutputKind, tuple[str, ...]] = {
    OutputKind.MERGED: ("out.end",),
    OutputKind.SPLIT: ("out.end", "err.end"),
    OutputKind.FILES: (),
    OutputKind.TERMINAL: ("out.end",),
}
_READ_BYTES = 64 << 10
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        parts = []
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


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
    data = _read(f"{directory}/{SPEC}")
    return None if data is None else records.load_spec(data)


def write_pid(descriptor: int, record: PidRecord) -> None:
    """Write the locked pidfile in place and make it durable: from here on the job has begun."""
    os.pwrite(descriptor, records.dump_pid(record).ljust(PID_ROOM_BYTES), 0)
    os.fdatasync(descriptor)


def clear_pid(directory: str) -> None:
    """Take back who leads the job: its program never ran, and it may be launched again."""
    descriptor = os.open(f"{directory}/{PID}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, b" " * PID_ROOM_BYTES, 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def read_pid(directory: str) -> PidRecord | None:
    """Return who minds and leads the job, or None before the start. Raises RecordCorruptError."""
    data = _read(f"{directory}/{PID}")
    return None if data is None else records.load_pid(data)


def write_stop(directory: str, record: StopRecord) -> None:
    """Note a stop before its first signal. Survives any process, not a power cut."""
    scratch = f"{directory}/{STOP}.tmp"
    with open(scratch, "wb", opener=_private) as file:
        file.write(records.dump_stop(record))
    os.rename(scratch, f"{directory}/{STOP}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def read_stop(directory: str) -> StopRecord | None:
    """Return the stop under way, if any. Raises RecordCorruptError."""
    data = _read(f"{directory}/{STOP}")
    return None if data is None else records.load_stop(data)


def write_exit(directory: str, final: FinalState) -> None:
    """Write the exit record into its reserved room, durable, and give it its name.

    Raises:
        OSError: As the kernel reports it; no exit.json exists then, and the call may be
            repeated.

    """
    room = f"{directory}/{EXIT_ROOM}"
    data = records.dump_exit(final)
    descriptor = os.open(room, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    reach("shim.record_written")
    os.rename(room, f"{directory}/{EXIT}")
    fsync_directory(directory)


def read_exit(directory: str) -> FinalState | None:
    """Return the final state, or None while there is no exit record. Raises RecordCorruptError."""
    data = _read(f"{directory}/{EXIT}")
    return None if data is None else records.load_exit(data)
