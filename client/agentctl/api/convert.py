"""Wire to model and back. A value this version does not know raises, it never defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agentapi.v1 import job_pb2, job_service_pb2
from agentctl.errors import ApiLevelMismatchError
from agentctl.model import (
    Cause,
    Chunk,
    Event,
    Fin,
    Gap,
    GapReason,
    Job,
    JobState,
    LogItem,
    LogTime,
    MemAction,
    OutputKind,
    signal_name,
)

_STATE_TO_WIRE = {
    JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
    JobState.STARTING: job_pb2.JOB_STATE_STARTING,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.PAUSED: job_pb2.JOB_STATE_PAUSED,
    JobState.STOPPING: job_pb2.JOB_STATE_STOPPING,
    JobState.ENDED: job_pb2.JOB_STATE_ENDED,
    JobState.START_FAILED: job_pb2.JOB_STATE_START_FAILED,
    JobState.LOST: job_pb2.JOB_STATE_LOST,
}

_CAUSES = {
    job_pb2.CAUSE_SELF: Cause.SELF,
    job_pb2.CAUSE_USER: Cause.USER,
    job_pb2.CAUSE_GUARD: Cause.GUARD,
    job_pb2.CAUSE_TIMEOUT: Cause.TIMEOUT,
    job_pb2.CAUSE_REBOOT: Cause.REBOOT,
    job_pb2.CAUSE_UNKNOWN: Cause.UNKNOWN,
}

_MEM_ACTION_TO_WIRE = {
    MemAction.KILL: job_pb2.MEM_ACTION_KILL,
    MemAction.PAUSE: job_pb2.MEM_ACTION_PAUSE,
    MemAction.WARN: job_pb2.MEM_ACTION_WARN,
}
_MEM_ACTIONS = {wire: action for action, wire in _MEM_ACTION_TO_WIRE.items()}

_OUTPUT_KINDS = {
    job_pb2.OUTPUT_KIND_MERGED: OutputKind.MERGED,
    job_pb2.OUTPUT_KIND_SPLIT: OutputKind.SPLIT,
    job_pb2.OUTPUT_KIND_FILES: OutputKind.FILES,
    job_pb2.OUTPUT_KIND_TERMINAL: OutputKind.TERMINAL,
}

_GAP_REASONS = {
    job_service_pb2.GAP_REASON_RETENTION: GapReason.RETENTION,
    job_service_pb2.GAP_REASON_DISK_FULL: GapReason.DISK_FULL,
}


def _unknown(what: str) -> ApiLevelMismatchError:
    return ApiLevelMismatchError(
        f"the agent sent {what} that this agentctl does not know; update agentctl"
    )


def state_to_wire(state: JobState) -> job_pb2.JobState.ValueType:
    """Return the wire's value for a state. Pure."""
    return _STATE_TO_WIRE[state]


def mem_action_to_wire(action: MemAction) -> job_pb2.MemAction.ValueType:
    """Return the wire's value for an action. Pure."""
    return _MEM_ACTION_TO_WIRE[action]


def state_from_wire(state: job_pb2.JobState.ValueType) -> JobState | None:
    """Return the state; None: unspecified. Raises ApiLevelMismatchError. Pure."""
    if not state:
        return None
    found = next((known for known, number in _STATE_TO_WIRE.items() if number == state), None)
    if found is None:
        raise _unknown(f"a job state ({state})")
    return found


def _mem_action(job: job_pb2.Job) -> MemAction | None:
    return mem_action_from_wire(job.mem_action) if job.HasField("mem_limit_bytes") else None


def mem_action_from_wire(action: job_pb2.MemAction.ValueType) -> MemAction | None:
    """Return the action; None: unspecified. Raises ApiLevelMismatchError. Pure."""
    if not action:
        return None
    try:
        return _MEM_ACTIONS[action]
    except KeyError:
        raise _unknown(f"a memory action ({action})") from None


def time_from_wire(stamp: Timestamp) -> datetime:
    """Return an aware UTC time, cut to microseconds. Pure."""
    whole = datetime.fromtimestamp(stamp.seconds, UTC)
    return whole.replace(microsecond=stamp.nanos // 1000)


def time_to_wire(moment: datetime) -> Timestamp:
    """Return the wire's form of an aware time. Pure."""
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp


def cause_from_wire(cause: job_pb2.Cause.ValueType) -> Cause:
    """Return who ended a job. Raises ApiLevelMismatchError. Pure."""
    try:
        return _CAUSES[cause]
    except KeyError:
        raise _unknown(f"a cause ({cause})") from None


def job_from_wire(job: job_pb2.Job, host: str) -> Job:
    """Return the job. Raises ApiLevelMismatchError for what this version does not know. Pure."""
    kind = job.WhichOneof("state")
    read = _STATES.get(kind or "")
    if kind is None or read is None:
        raise _unknown("a job state")
    if job.output_kind not in _OUTPUT_KINDS:
        raise _unknown(f"a kind of output ({job.output_kind})")
    return Job(
        id=job.id,
        name=job.name or None,
        state=JobState(kind),
        argv=tuple(os.fsdecode(argument) for argument in job.argv),
        cwd=os.fsdecode(job.cwd),
        labels=dict(job.labels),
        submitted_at=time_from_wire(job.submitted_at),
        mem_limit_bytes=job.mem_limit_bytes if job.HasField("mem_limit_bytes") else None,
        log_bytes=job.log_bytes,
        host=host,
        output_kind=_OUTPUT_KINDS[job.output_kind],
        event_seq=job.event_seq,
        mem_action=_mem_action(job),
        preemptible=job.preemptible,
        requeue_limit=job.requeue_limit,
        requeue_count=job.requeue_count,
        requeue_of=job.requeue_of if job.HasField("requeue_of") else None,
        requeued_as=job.requeued_as if job.HasField("requeued_as") else None,
        requeue_at=_optional_time(job, job.requeue_at, "requeue_at"),
        requeue_cancelled=job.requeue_cancelled or None,
        **read(getattr(job, kind)),
    )


# What only one state knows, as the fields of Job it fills. The dictionaries go straight into
# the constructor above, hence Any.


def _nothing(_: object) -> dict[str, Any]:
    return {}


def _live(
    state: job_pb2.Running | job_pb2.Paused | job_pb2.Stopping,
) -> dict[str, Any]:
    return {
        "started_at": _optional_time(state, state.started_at),
        "pid": state.leader_pid or None,
        "shim_pid": state.shim_pid or None,
    }


def _paused(state: job_pb2.Paused) -> dict[str, Any]:
    return {**_live(state), "reason": state.reason or None}


def _stopping(state: job_pb2.Stopping) -> dict[str, Any]:
    cause = cause_from_wire(state.cause)
    return {**_live(state), "cause": cause, "reason": state.reason or None}


def _ended(state: job_pb2.Ended) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "started_at": _optional_time(state, state.started_at),
        "ended_at": _optional_time(state, state.ended_at),
        "cause": cause_from_wire(state.cause),
        "reason": state.reason or None,
    }
    match state.WhichOneof("status"):
        case "exit_code":
            fields["exit_code"] = state.exit_code
        case "signaled":
            fields["signal"] = signal_name(state.signaled.signal_number)
            fields["core_dumped"] = state.signaled.core_dumped
        case _:
            raise _unknown("an exit status")
    if state.HasField("usage"):
        fields["peak_memory_bytes"] = state.usage.peak_memory_bytes
        fields["cpu_s"] = round(state.usage.cpu_user_s + state.usage.cpu_system_s, 6)
    return fields


def _start_failed(state: job_pb2.StartFailed) -> dict[str, Any]:
    return {
        "ended_at": _optional_time(state, state.failed_at, "failed_at"),
        "cause": cause_from_wire(state.cause),
        "reason": state.reason or None,
        "errno": state.errno,
        "path": os.fsdecode(state.path) if state.path else None,
    }


def _lost(state: job_pb2.Lost) -> dict[str, Any]:
    # Nobody saw the end, so there is no `ended_at`: `noticed_at` is when it was missed.
    return {
        "started_at": _optional_time(state, state.started_at),
        "cause": cause_from_wire(state.cause),
        "reason": state.reason or None,
        "surviving_pids": tuple(state.surviving_pids),
    }


def _optional_time(message: Message, stamp: Timestamp, name: str = "started_at") -> datetime | None:
    return time_from_wire(stamp) if message.HasField(name) else None


_STATES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "queued": _nothing,
    "starting": _nothing,
    "running": _live,
    "paused": _paused,
    "stopping": _stopping,
    "ended": _ended,
    "start_failed": _start_failed,
    "lost": _lost,
}


def event_from_wire(event: job_pb2.JobEvent, host: str) -> Event:
    """Return the event. Raises ApiLevelMismatchError. Pure."""
    return Event(
        seq=event.seq,
        occurred_at=time_from_wire(event.occurred_at),
        kind=event.kind,
        job=job_from_wire(event.job, host),
        detail=event.detail,
    )


def log_item_from_wire(response: job_service_pb2.ReadLogResponse) -> LogItem:
    """Return the item. Raises ApiLevelMismatchError. Pure."""
    match response.WhichOneof("item"):
        case "chunk":
            times = tuple(
                LogTime(time.offset, time_from_wire(time.written_at))
                for time in response.chunk.times
            )
            return Chunk(response.chunk.offset, response.chunk.data, times)
        case "gap":
            gap = response.gap
            if gap.reason not in _GAP_REASONS:
                raise _unknown(f"a gap ({gap.reason})")
            return Gap(gap.from_offset, gap.to_offset, _GAP_REASONS[gap.reason])
        case "fin":
            return Fin(response.fin.next_offset, response.fin.job_over)
        case _:
            raise _unknown("a piece of log")
