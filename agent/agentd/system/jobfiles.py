"""The files of a job directory as bytes: their names, their rooms, how each is written.

What stands in them is `records`'s affair; a shim and its leader use this module alone.
"""

from __future__ import annotations

import os

from agentd.system.crashpoint import reach
from agentd.system.files import fsync_directory, replace_file, write_all

SPEC = "spec.json"
PID = "pid"
EXIT = "exit.json"
EXIT_ROOM = "exit.json.new"
STOP = "stop.json"
#: Written by the guard before its first deadly signal.
VERDICT = "verdict.json"
CONTROL = "ctl"
#: More than any exit record needs.
EXIT_ROOM_BYTES = 4096
#: The pidfile, allocated at submit and overwritten in place; spaces mean: not begun.
PID_ROOM_BYTES = 1024

_READ_BYTES = 64 << 10


def read(path: str) -> bytes | None:
    """Return the whole file, or None if there is none."""
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


def write_pid(descriptor: int, record: bytes) -> None:
    """Write the locked pidfile in place and make it durable: from here on the job has begun."""
    os.pwrite(descriptor, record.ljust(PID_ROOM_BYTES), 0)
    os.fdatasync(descriptor)


def clear_pid(directory: str) -> None:
    """Take back who leads the job: its program never ran, and it may be launched again."""
    descriptor = os.open(f"{directory}/{PID}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, b" " * PID_ROOM_BYTES, 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def write_stop(directory: str, record: bytes) -> None:
    """Note a stop before its first signal. Survives any process, not a power cut."""
    replace_file(f"{directory}/{STOP}", record)


def write_exit(directory: str, record: bytes) -> None:
    """Write the exit record into its reserved room, durable, and give it its name.

    Raises:
        OSError: As the kernel reports it; no exit.json exists then, and the call may be
            repeated.

    """
    room = f"{directory}/{EXIT_ROOM}"
    descriptor = os.open(room, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, record)
        os.ftruncate(descriptor, len(record))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    reach("shim.record_written")
    os.rename(room, f"{directory}/{EXIT}")
    fsync_directory(directory)
