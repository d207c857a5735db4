"""States and summaries as JSON, as they stand in the index. Pure.

The index may be rebuilt at any time, so this is no format to keep: what it holds is what the
program that made it wrote. Text from the operating system may hold lone surrogates, which
SQLite refuses; JSON escapes them.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from agentd.core.guard.model import MemAction
from agentd.core.job import (
    ActiveState,
    Cause,
    Ended,
    ExitStatus,
    FinalState,
    JobSpec,
    LeaderHandle,
    Lost,
    Paused,
    ProcessId,
    Queued,
    ResourceUsage,
    Running,
    StartFailed,
    Starting,
    State,
    Stopping,
)
from agentd.errors import StoreCorruptError
from agentd.server.runtime.model import JobSummary
from agentd.system import records

STATE_NAMES: dict[type[State], str] = {
    Queued: "queued",
    Starting: "starting",
    Running: "running",
    Paused: "paused",
    Stopping: "stopping",
    Ended: "ended",
    StartFailed: "start_failed",
    Lost: "lost",
}
_STATES = {name: kind for kind, name in STATE_NAMES.items()}
ACTIVE_STATES: frozenset[type[State]] = frozenset(get_args(ActiveState))
FINAL_STATES: frozenset[type[State]] = frozenset(get_args(FinalState))

_Record = State | LeaderHandle | ProcessId | ExitStatus | ResourceUsage


def _fields(record: _Record) -> dict[str, Any]:
    # Not dataclasses.asdict: its deep copy takes as long as all the rest of an event.
    return {name: getattr(record, name) for name in type(record).__slots__}


_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=_fields).encode


def encode_state(state: State) -> str:
    """Return the state's fields. Pure."""
    return _to_json(state)


def decode_state(name: str, text: str) -> State:
    """Return the state. Pure.

    Raises:
        StoreCorruptError: The text is not what `encode_state` makes.

    """
    try:
        return _build_state(_STATES[name], json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorruptError(f"the index holds a state that makes no sense: {error}") from error


def _build_state(kind: type[State], body: dict[str, Any]) -> State:
    if "cause" in body:
        body["cause"] = Cause(body["cause"])
    if body.get("handle") is not None:
        handle = body["handle"]
        leader = ProcessId(**handle.pop("leader"))
        body["handle"] = LeaderHandle(leader=leader, **handle)
    if kind is Ended:
        body["status"] = ExitStatus(**body["status"])
        body["usage"] = ResourceUsage(**body["usage"])
    if kind is Lost:
        body["surviving_pids"] = tuple(body["surviving_pids"])
    return kind(**body)


def encode_summary(summary: JobSummary) -> str:
    """Return everything of the summary but the id. Pure."""
    return _to_json(
        {
            "name": summary.name,
            "argv": summary.argv,
            "cwd": summary.cwd,
            "labels": dict(summary.labels),
            "submitted_at_ns": summary.submitted_at_ns,
            "mem_limit_bytes": summary.mem_limit_bytes,
            "output": records.output_to_json(summary.output),
            "mem_action": summary.mem_action,
            "preemptible": summary.preemptible,
            "requeue_limit": summary.requeue_limit,
            "requeue_count": summary.requeue_count,
            "requeue_of": summary.requeue_of,
            "requeued_as": summary.requeued_as,
        }
    )


def decode_summary(job_id: int, text: str) -> JobSummary:
    """Return the summary. Pure.

    Raises:
        StoreCorruptError: The text is not what `encode_summary` makes.

    """
    try:
        body = json.loads(text)
        body["argv"] = tuple(body["argv"])
        body["output"] = records.output_from_json(body["output"])
        if "mem_action" in body:
            body["mem_action"] = MemAction(body["mem_action"])
        return JobSummary(id=job_id, **body)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorruptError(f"the index holds a job that makes no sense: {error}") from error


def summary_of(spec: JobSpec) -> JobSummary:
    """Return what of the spec may be listed. Pure."""
    return JobSummary(
        id=spec.id,
        name=spec.name,
        argv=spec.argv,
        cwd=spec.cwd,
        labels=spec.labels,
        submitted_at_ns=spec.submitted_at_ns,
        mem_limit_bytes=spec.mem_limit_bytes,
        output=spec.output,
        mem_action=spec.mem_action,
        preemptible=spec.preemptible,
        requeue_limit=spec.requeue_limit,
        requeue_count=spec.requeue_count,
        requeue_of=spec.requeue_of,
    )
