"""The records a shim and its leader read and write: system.records as plain objects.

Of a record that somebody else wrote only the fields used here are looked at; an unknown one
is no error, a missing one is.
"""

from __future__ import annotations

from agentd.core.value import Value
from agentd.errors import RecordCorruptError
from agentd.system import jobfiles, plainjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = 1


def dump(body: Mapping[str, object]) -> bytes:
    """Return the content of a file."""
    return plainjson.dumps({"version": VERSION, **body}) + b"\n"


def read(path: str) -> dict[str, Any] | None:
    """Return what stands in a file; None if there is none.

    Raises:
        RecordCorruptError: It is torn, or not ours.

    """
    data = jobfiles.read(path)
    return None if data is None else _load(path, data)


def read_pid(directory: str = ".") -> dict[str, Any] | None:
    """Return what stands in the pidfile; None before the job has begun.

    Raises:
        RecordCorruptError: It is torn, or not ours.

    """
    path = f"{directory}/{jobfiles.PID}"
    data = jobfiles.read(path)
    return None if data is None or not data.strip(b"\0 \n") else _load(path, data)


def _load(path: str, data: bytes) -> dict[str, Any]:
    try:
        body = plainjson.loads(data)
    except ValueError as error:
        raise RecordCorruptError(f"{path} is not JSON: {error}") from error
    if body.get("version") != VERSION:
        raise RecordCorruptError(f"{path} is not a record of version {VERSION}")
    return body


class Stop(Value):
    """A stop that was asked for: content of stop.json."""

    __slots__ = ("cause", "kill_at_boot_ns", "reason")

    def __init__(self, cause: str, kill_at_boot_ns: int, reason: str = "") -> None:
        """`kill_at_boot_ns` is the CLOCK_BOOTTIME at which SIGKILL follows."""
        self.cause = cause
        self.kill_at_boot_ns = kill_at_boot_ns
        self.reason = reason

    def write(self) -> None:
        """Note it in the current directory. Raises OSError."""
        body = {name: getattr(self, name) for name in self.__slots__}
        jobfiles.write_stop(".", dump(body))


def read_stop() -> Stop | None:
    """Return the stop under way in the current directory. Raises RecordCorruptError."""
    body = read(jobfiles.STOP)
    if body is None:
        return None
    try:
        return Stop(body["cause"], body["kill_at_boot_ns"], body.get("reason", ""))
    except KeyError as error:
        raise RecordCorruptError(f"{jobfiles.STOP} lacks a field: {error}") from error
