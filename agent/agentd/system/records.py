"""The files of a job directory as JSON: spec.json, pid, stop.json, exit.json.

Each holds ``"version": 1``. Readers skip what they do not know and refuse what they cannot
understand; writers never change the meaning of a field. Pure: bytes in, dataclasses out.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from agentd.core.guard.model import MemAction
from agentd.core.job import (
    OUTPUT_KINDS,
    Cause,
    Ended,
    ExitStatus,
    FinalState,
    JobSpec,
    Lost,
    Output,
    OutputKind,
    ProcessId,
    ResourceUsage,
    StartFailed,
)
from agentd.errors import RecordCorruptError

VERSION = 1

_OUTPUTS = {kind: output for output, kind in OUTPUT_KINDS.items()}
_FINALS: dict[str, type[FinalState]] = {"ended": Ended, "start_failed": StartFailed, "lost": Lost}
_FINAL_NAMES = {kind: name for name, kind in _FINALS.items()}


@dataclass(frozen=True, slots=True)
class PidRecord:
    """Content of the pidfile: who minds the job and who leads it, believed only in its boot."""

    boot_id: str
    shim: ProcessId
    leader: ProcessId
    started_at_ns: int
    #: CLOCK_BOOTTIME at the start: durations and timeouts go on in a rescue shim.
    started_boot_ns: int
    #: With --output --append: size of the user's file at the start, our byte 0.
    out_base_bytes: int = 0
    err_base_bytes: int = 0
    #: Inode of each pipe, by which its read end is found again; 0 where there is none.
    out_pipe_inode: int = 0
    err_pipe_inode: int = 0
    #: How many processes the kernel had killed for want of memory at the start; -1: unknown.
    host_oom_kills: int = -1
    #: The job's own cgroup, whether it could be made or not; empty: none.
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class StopRecord:
    """Content of stop.json, written before the first signal of a stop ladder."""

    cause: Cause
    #: CLOCK_BOOTTIME at which SIGKILL follows.
    kill_at_boot_ns: int
    reason: str = ""


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **body}, separators=(",", ":")).encode() + b"\n"


def _load(data: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise RecordCorruptError(f"{what} is not JSON: {error}") from error
    if not isinstance(body, dict) or body.get("version") != VERSION:
        raise RecordCorruptError(f"{what} is not a record of version {VERSION}")
    return body


def _known(kind: type[Any], body: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(kind)}
    return {name: value for name, value in body.items() if name in names}


def dump_spec(spec: JobSpec) -> bytes:
    """Return spec.json."""
    # asdict copies deeply; the environment alone may hold hundreds of values.
    body = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    return _dump({**body, "output": output_to_json(spec.output)})


def output_to_json(output: Output) -> dict[str, Any]:
    """Return the output's kind and fields."""
    return {"kind": OUTPUT_KINDS[type(output)], **dataclasses.asdict(output)}


def output_from_json(body: dict[str, Any]) -> Output:
    """Return the output. Raises KeyError or TypeError."""
    kind = _OUTPUTS[OutputKind(body["kind"])]
    return kind(**_known(kind, body))


def load_spec(data: bytes) -> JobSpec:
    """Return the spec. Raises RecordCorruptError."""
    body = _load(data, "spec.json")
    try:
        known = _known(JobSpec, body)
        known["argv"] = tuple(known["argv"])
        known["output"] = output_from_json(known["output"])
        if "mem_action" in known:
            known["mem_action"] = MemAction(known["mem_action"])
        limits = known.get("resource_limits", {})
        known["resource_limits"] = {name: (soft, hard) for name, (soft, hard) in limits.items()}
        return JobSpec(**known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordCorruptError(f"spec.json lacks or misnames a field: {error}") from error


def dump_pid(record: PidRecord) -> bytes:
    """Return the pidfile's content."""
    return _dump(dataclasses.asdict(record))


def load_pid(data: bytes) -> PidRecord | None:
    """Return the record, or None for an empty file: locked, but no leader yet.

    Raises RecordCorruptError.
    """
    if not data.strip(b"\0 \n"):
        return None
    body = _load(data, "the pidfile")
    try:
        known = _known(PidRecord, body)
        known["shim"] = ProcessId(**known["shim"])
        known["leader"] = ProcessId(**known["leader"])
        return PidRecord(**known)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordCorruptError(f"the pidfile lacks or misnames a field: {error}") from error


def dump_stop(record: StopRecord) -> bytes:
    """Return stop.json."""
    return _dump(dataclasses.asdict(record))


def load_stop(data: bytes) -> StopRecord:
    """Return the record. Raises RecordCorruptError."""
    body = _load(data, "stop.json")
    try:
        known = _known(StopRecord, body)
        known["cause"] = Cause(known["cause"])
        return StopRecord(**known)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordCorruptError(f"stop.json lacks or misnames a field: {error}") from error


def dump_exit(final: FinalState) -> bytes:
    """Return exit.json: the final state itself."""
    return _dump({"state": _FINAL_NAMES[type(final)], **dataclasses.asdict(final)})


def load_exit(data: bytes) -> FinalState:
    """Return the final state. Raises RecordCorruptError."""
    body = _load(data, "exit.json")
    try:
        kind = _FINALS[body["state"]]
        known = _known(kind, body)
        known["cause"] = Cause(known["cause"])
        if kind is Ended:
            known["status"] = ExitStatus(**known["status"])
            known["usage"] = ResourceUsage(**known["usage"])
        if kind is Lost:
            known["surviving_pids"] = tuple(known["surviving_pids"])
        return kind(**known)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordCorruptError(f"exit.json lacks or misnames a field: {error}") from error
