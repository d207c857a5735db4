"""What a new warden finds: shims that outlived the last one."""

from __future__ import annotations

import os
from _socket import socket as c_socket
from collections.abc import Iterator
from dataclasses import dataclass

from agentd.core.contract import Adopt, JobView
from agentd.core.job import OUTPUT_KINDS, OutputKind
from agentd.errors import RecordCorruptError
from agentd.paths import Paths
from agentd.system import jobdir, locks, packets, process
from agentd.system.clock import boot_id
from agentd.system.records import PidRecord


@dataclass(frozen=True, slots=True)
class Finding:
    """A job that has a shim, or a leader that a rescue shim can mind."""

    job_id: int
    view: JobView
    #: For the case that it has not begun and its shim dies now.
    output: OutputKind
    #: Its own, if it could be made.
    cgroup: str = ""


def look(paths: Paths) -> Iterator[Finding]:
    """Yield every job whose end is not in the index and that has a shim or a leader alive.

    The others (never begun, ended, lost) need no warden; the server decides about them.
    """
    for name in os.listdir(paths.live):
        if not (name.isascii() and name.isdigit()):
            continue
        job_id = int(name)
        directory = paths.job(job_id)
        record = _pid_record(directory)
        view = _view(job_id, record)
        # "Cannot tell" (None) counts as held: a shim that may live is never replaced.
        has_shim = locks.is_locked(f"{directory}/{jobdir.PID}") is not False
        if has_shim or (record is not None and not _is_over(directory) and _leader_lives(record)):
            cgroup = "" if record is None else record.cgroup
            yield Finding(job_id, view, _output(directory, record), cgroup)


def _pid_record(directory: str) -> PidRecord | None:
    try:
        return jobdir.read_pid(directory)
    except (RecordCorruptError, OSError):
        # One job on a bad disk is no reason to mind none; its lock tells whether it has a shim.
        return None


def _output(directory: str, record: PidRecord | None) -> OutputKind:
    try:
        spec = jobdir.read_spec(directory) if record is None else None
    except (RecordCorruptError, OSError):
        spec = None
    return OutputKind.MERGED if spec is None else OUTPUT_KINDS[type(spec.output)]


def _is_over(directory: str) -> bool:
    return os.path.exists(f"{directory}/{jobdir.EXIT}")


def _leader_lives(record: PidRecord) -> bool:
    return record.boot_id == boot_id() and process.is_alive(record.leader)


def _view(job_id: int, record: PidRecord | None) -> JobView:
    if record is None:
        return JobView(job_id, "starting")
    return JobView(
        job_id,
        "running",
        record.started_at_ns,
        record.leader.pid,
        record.leader.start_ticks,
        record.shim.pid if process.is_alive(record.shim) else 0,
    )


def connect(directory: str) -> c_socket | None:
    """Ask the shim for its view and descriptors; None if it cannot be reached now."""
    try:
        control = packets.connect(directory, jobdir.CONTROL)
    except OSError:
        return None
    if not packets.send(control, Adopt()):
        control.close()
        return None
    return control
