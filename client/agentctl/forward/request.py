"""What was typed after `agentctl forward`. Pure.

A number from 1024 on is a port, a smaller one a job's id: ports below are the system's, and
`LOCAL:JOB:PORT` says whatever else is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentctl.errors import InvalidSpecError
from agentctl.ports import Place, TcpPlace, UnixPlace

_FIRST_PORT = 1024
_LAST_PORT = 65535
_MOST_PARTS = 3
_HELP = "say JOB, PORT, LOCAL:PORT, JOB:PORT or LOCAL:JOB:PORT"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One forward as it was asked for."""

    #: Id or name; empty: no job.
    job: str
    #: None: whatever the job listens on.
    place: Place | None
    #: The local port; None: the one of last time, else the target's own number.
    local: int | None


def parse(text: str) -> Wanted:
    """Return what `text` means. Raises InvalidSpecError."""
    # A path may hold colons of its own.
    before, slash, path = text.partition(":/")
    parts = [*before.split(":"), *(["/" + path] if slash else [])]
    if len(parts) > _MOST_PARTS or not text:
        raise InvalidSpecError(f"{text!r}: {_HELP}")
    if len(parts) == _MOST_PARTS:
        local, job, place = parts
        return Wanted(job, _place(place, text), _port(local, text) if local else None)
    if len(parts) == 1:
        if _is_port(text):
            return Wanted("", TcpPlace(_port(text, text)), None)
        if text.startswith("/"):
            raise _no_job_named(text, "")
        return Wanted(text, None, None)
    first, last = parts
    if last.startswith("/") and (not first or _is_port(first)):
        raise _no_job_named(last, first and f"{first}:")
    if _is_port(first):
        return Wanted("", TcpPlace(_port(last, text)), _port(first, text))
    # ":80" is a port of the host that would otherwise be taken for a job.
    place_of_job = _place(last, text) if last else None
    if not first and place_of_job is None:
        raise InvalidSpecError(f"{text!r}: {_HELP}")
    return Wanted(first, place_of_job, None)


def _no_job_named(path: str, local: str) -> InvalidSpecError:
    return InvalidSpecError(f"{path} is a path: name its job, {local}JOB:{path}")


def _is_port(text: str) -> bool:
    return _is_number(text) and int(text) >= _FIRST_PORT


def _is_number(text: str) -> bool:
    # Not "²", which is a digit to isdigit() alone; and nothing that takes long to read.
    return text.isascii() and text.isdigit() and len(text) < len("1000000000")


def _port(text: str, whole: str) -> int:
    if not _is_number(text) or not 0 < int(text) <= _LAST_PORT:
        within = "" if text == whole else f"{whole!r}: "
        shown = text if _is_number(text) else repr(text)
        raise InvalidSpecError(f"{within}{shown} is no port (1 to {_LAST_PORT}); {_HELP}")
    return int(text)


def _place(text: str, whole: str) -> Place:
    if text.startswith("/"):
        return UnixPlace(text.encode(errors="surrogateescape"))
    return TcpPlace(_port(text, whole))
