"""What the guard is doing to whom, so that a warden that is killed in the middle is continued.

Two places. ``guard.state`` in the runtime directory names every job that has a SIGSTOP of ours or a
stop of ours that its shim has not confirmed yet; it is written *before* the signal, into room
that was allocated at the start, and believed only within its boot. ``verdict.json`` in the
job's directory says why a job was paused or ended; it is written before the first signal that
ends anything, and whoever writes the exit record goes by it.

Neither is forced to disk (fsync): they have to outlive processes, and no process of a job
outlives the machine. A disk that is full or stuck must not keep the guard from acting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from agentd.core.guard.model import Level, Trigger, Verdict
from agentd.system.clock import boot_id, wall_ns
from agentd.system.complaint import complain
from agentd.system.files import replace_file

VERDICT = "verdict.json"
_VERSION = 1
#: Room for some hundred jobs.
_ROOM_BYTES = 64 << 10


class Phase(StrEnum):
    """How far the guard has come with a job."""

    FROZEN = "frozen"
    HELD = "held"
    TERMINATING = "terminating"
    KILLING = "killing"


@dataclass(frozen=True, slots=True)
class Entry:
    """One job under the guard's hand. `since_ns`: CLOCK_MONOTONIC, which counts from the boot."""

    phase: Phase
    since_ns: int
    #: None as long as the job is only frozen to be measured.
    verdict: Verdict | None = None
    #: Wall clock of the notice about it: the same notice, told again, is known by that.
    noticed_at_ns: int = 0


class Journal:
    """guard.state: one writer, the warden that holds the pidfile's lock."""

    def __init__(self, path: str) -> None:
        """Read what the last warden has left: see `entries`. What makes no sense is nothing."""
        self._file = -1
        self.entries: dict[int, Entry] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self.entries = _load(os.pread(self._file, _ROOM_BYTES, 0))
            # Room for what is to come, on a disk that may be full by then.
            os.posix_fallocate(self._file, 0, _ROOM_BYTES)
        except OSError as error:
            # Guarding goes on; only a warden killed in the middle of it is not continued.
            complain(f"guard: cannot keep {path}: {error}")

    def note(self, job_id: int, entry: Entry) -> None:
        """Say what is about to be done to a job."""
        self.entries[job_id] = entry
        self._write()

    def drop(self, job_id: int) -> None:
        """Say that nothing more is to be done about a job."""
        if self.entries.pop(job_id, None) is not None:
            self._write()

    def _write(self) -> None:
        body = {str(job_id): _entry_to_json(entry) for job_id, entry in self.entries.items()}
        whole = {"version": _VERSION, "boot_id": boot_id(), "jobs": body}
        # One line: what a longer one before has left behind it does not count. Up to a page it is
        # there whole or not at all, also if we are killed: a write is given up between pages.
        data = json.dumps(whole, separators=(",", ":")).encode() + b"\n"
        if self._file < 0 or len(data) > _ROOM_BYTES:
            return
        try:
            os.pwrite(self._file, data, 0)
        except OSError as error:
            complain(f"guard: cannot keep its state: {error}")


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    verdict = None if entry.verdict is None else asdict(entry.verdict)
    return {
        "phase": entry.phase,
        "since_ns": entry.since_ns,
        "verdict": verdict,
        "noticed_at_ns": entry.noticed_at_ns,
    }


def _load(data: bytes) -> dict[int, Entry]:
    try:
        body = json.loads(data.partition(b"\n")[0])
        if body["version"] != _VERSION or body["boot_id"] != boot_id():
            return {}
        jobs = dict(body["jobs"])
    except (KeyError, TypeError, ValueError):
        return {}
    entries: dict[int, Entry] = {}
    for job_id, entry in jobs.items():
        try:
            entries[int(job_id)] = _entry(entry)
        except (KeyError, TypeError, ValueError):
            # One that makes no sense is no reason to forget the others.
            continue
    return entries


def _entry(body: Mapping[str, Any]) -> Entry:
    verdict = body["verdict"]
    return Entry(
        Phase(body["phase"]),
        body["since_ns"],
        None if verdict is None else _verdict(verdict),
        body["noticed_at_ns"],
    )


def _verdict(body: Mapping[str, Any]) -> Verdict:
    known = {name: value for name, value in body.items() if name in Verdict.__slots__}
    known["trigger"] = Trigger(known["trigger"])
    known["level"] = Level(known["level"])
    return Verdict(**known)


def write_verdict(directory: str, action: str, verdict: Verdict, reason: str) -> bool:
    """Say in the job's directory what is about to be done to it, and why; False if it cannot."""
    body = {
        "version": _VERSION,
        "boot_id": boot_id(),
        "at_ns": wall_ns(),
        "action": action,
        "reason": reason,
        **asdict(verdict),
    }
    return _replace(f"{directory}/{VERDICT}", body)


def add_outcome(directory: str, freed_bytes: int, took_ns: int, available_bytes: int) -> None:
    """Add to a verdict what came back after it."""
    path = f"{directory}/{VERDICT}"
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read())
    except (OSError, ValueError):
        return
    after = {
        "freed_bytes": freed_bytes,
        "took_ns": took_ns,
        "host_available_bytes": available_bytes,
    }
    _replace(path, {**body, "after": after})


def _replace(path: str, body: Mapping[str, Any]) -> bool:
    try:
        replace_file(path, json.dumps(body, separators=(",", ":")).encode() + b"\n")
    except OSError:
        # A full disk: the shim is told the reason all the same.
        return False
    return True
