"""Between the wire and the model, both ways. Pure.

Text of the operating system is bytes on the wire and `str` with surrogate escapes inside
(`os.fsdecode`). What the wire holds and we do not know is an `InvalidSpecError` that names
the field, never a default. The environment comes in and never goes out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from types import MappingProxyType

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentapi.v1 import job_pb2, job_service_pb2
from agentd.core import job as core
from agentd.core.guard.model import MemAction
from agentd.core.job import Cause
from agentd.core.units import MAX_DURATION_S
from agentd.errors import InvalidSpecError
from agentd.server.edge.errors import wire_text
from agentd.server.runtime.logfollow import (
    Fin,
    FromOffset,
    FromTail,
    FromTime,
    LogItem,
    LogRequest,
    Start,
    TimedChunk,
)
from agentd.server.runtime.logs import Gap, GapReason
from agentd.server.runtime.model import Event, JobDraft, JobInfo, JobQuery, JobSummary, Remarks

_NS = 1_000_000_000

STATES: MappingProxyType[int, type[core.State]] = MappingProxyType(
    {
        job_pb2.JOB_STATE_QUEUED: core.Queued,
        job_pb2.JOB_STATE_STARTING: core.Starting,
        job_pb2.JOB_STATE_RUNNING: core.Running,
        job_pb2.JOB_STATE_PAUSED: core.Paused,
        job_pb2.JOB_STATE_STOPPING: core.Stopping,
        job_pb2.JOB_STATE_ENDED: core.Ended,
        job_pb2.JOB_STATE_START_FAILED: core.StartFailed,
        job_pb2.JOB_STATE_LOST: core.Lost,
    }
)
CAUSES = MappingProxyType(
    {
        Cause.SELF: job_pb2.CAUSE_SELF,
        Cause.USER: job_pb2.CAUSE_USER,
        Cause.GUARD: job_pb2.CAUSE_GUARD,
        Cause.TIMEOUT: job_pb2.CAUSE_TIMEOUT,
        Cause.REBOOT: job_pb2.CAUSE_REBOOT,
        Cause.UNKNOWN: job_pb2.CAUSE_UNKNOWN,
    }
)
OUTPUT_KINDS = MappingProxyType(
    {
        core.MergedOutput: job_pb2.OUTPUT_KIND_MERGED,
        core.SplitOutput: job_pb2.OUTPUT_KIND_SPLIT,
        core.FileOutput: job_pb2.OUTPUT_KIND_FILES,
        core.TerminalOutput: job_pb2.OUTPUT_KIND_TERMINAL,
    }
)
MEM_ACTIONS = MappingProxyType(
    {
        MemAction.KILL: job_pb2.MEM_ACTION_KILL,
        MemAction.PAUSE: job_pb2.MEM_ACTION_PAUSE,
        MemAction.WARN: job_pb2.MEM_ACTION_WARN,
    }
)
GAP_REASONS = MappingProxyType(
    {
        GapReason.RETENTION: job_service_pb2.GAP_REASON_RETENTION,
        GapReason.DISK_FULL: job_service_pb2.GAP_REASON_DISK_FULL,
    }
)


def draft(request: job_service_pb2.SubmitJobRequest) -> JobDraft:
    """Return what a submit asks for, not yet checked.

    Raises:
        InvalidSpecError: There is no spec, or a duration in it is none.

    """
    if not request.HasField("spec"):
        raise InvalidSpecError("spec: missing")
    spec = request.spec
    return JobDraft(
        idempotency_key=request.idempotency_key,
        argv=tuple(os.fsdecode(argument) for argument in spec.argv),
        cwd=os.fsdecode(spec.cwd),
        environment={os.fsdecode(pair.name): os.fsdecode(pair.value) for pair in spec.environment},
        name=spec.name,
        labels=dict(spec.labels),
        timeout_s=_seconds(spec.timeout, "timeout") if spec.HasField("timeout") else None,
        grace_s=_seconds(spec.grace, "grace") if spec.HasField("grace") else None,
        output=_output(spec),
        stdin_path=os.fsdecode(spec.stdin_path) if spec.stdin_path else None,
        umask=spec.umask if spec.HasField("umask") else None,
        mem_limit_bytes=spec.mem_limit_bytes if spec.HasField("mem_limit_bytes") else None,
        mem_action=_mem_action(spec.mem_action),
        preemptible=spec.preemptible,
        requeue_limit=spec.requeue_limit,
        log_retention_bytes=(
            spec.log_retention_bytes if spec.HasField("log_retention_bytes") else None
        ),
        resource_limits={limit.name: _limits(limit) for limit in spec.resource_limits},
        as_login=spec.as_login,
    )


def _mem_action(value: int) -> MemAction | None:
    if value == job_pb2.MEM_ACTION_UNSPECIFIED:
        return None
    for action, known in MEM_ACTIONS.items():
        if known == value:
            return action
    raise InvalidSpecError(f"mem_action: {value} is no action this agent knows")


def _limits(limit: job_pb2.ResourceLimit) -> tuple[int, int]:
    """Return soft and hard limit as setrlimit(2) of Python takes them: -1 is unlimited."""
    soft = limit.soft if limit.HasField("soft") else -1
    return soft, limit.hard if limit.HasField("hard") else -1


def _output(spec: job_pb2.JobSpec) -> core.Output:
    match spec.WhichOneof("output"):
        case "split":
            return core.SplitOutput()
        case "files":
            files = spec.files
            return core.FileOutput(
                stdout_path=os.fsdecode(files.stdout_path),
                stderr_path=os.fsdecode(files.stderr_path) if files.stderr_path else None,
                append=files.append,
            )
        case "terminal":
            return core.TerminalOutput(columns=spec.terminal.columns, rows=spec.terminal.rows)
        case _:
            return core.MergedOutput()


def grace_s(request: job_service_pb2.StopJobRequest) -> float | None:
    """Return the grace a stop asks for, or None. Raises InvalidSpecError."""
    return _seconds(request.grace, "grace") if request.HasField("grace") else None


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / _NS
    if not 0 <= seconds <= MAX_DURATION_S or not 0 <= duration.nanos < _NS:
        raise InvalidSpecError(
            f"{field}: {duration.seconds} s and {duration.nanos} ns is no duration from 0 s to "
            f"{MAX_DURATION_S:.0f} s"
        )
    return seconds


def query(request: job_service_pb2.ListJobsRequest) -> JobQuery:
    """Return which jobs a listing asks for. Raises InvalidSpecError."""
    return JobQuery(
        states=frozenset(_state_type(value) for value in request.states),
        name=request.name,
        labels=dict(request.labels),
        current_only=request.current_only,
        recent_limit=request.recent_limit,
        page_size=request.page_size,
        before_id=request.before_id,
    )


def _state_type(value: int) -> type[core.State]:
    kind = STATES.get(value)
    if kind is None:
        raise InvalidSpecError(f"states: {value} is no state this agent knows")
    return kind


def log_request(request: job_service_pb2.ReadLogRequest) -> LogRequest:
    """Return which bytes of which log are wanted. An unset stream is stdout.

    Raises:
        InvalidSpecError: The stream is unknown or the time is none.

    """
    known = (
        job_service_pb2.LOG_STREAM_UNSPECIFIED,
        job_service_pb2.LOG_STREAM_OUT,
        job_service_pb2.LOG_STREAM_ERR,
    )
    if request.stream not in known:
        raise InvalidSpecError(f"stream: {request.stream} is no stream this agent knows")
    return LogRequest(
        job_id=request.job_id,
        stderr=request.stream == job_service_pb2.LOG_STREAM_ERR,
        start=_start(request),
        follow=request.follow,
        with_times=request.with_times,
    )


def _start(request: job_service_pb2.ReadLogRequest) -> Start:
    match request.WhichOneof("start"):
        case "tail_lines":
            return FromTail(request.tail_lines)
        case "since":
            wall_ns = request.since.seconds * _NS + request.since.nanos
            # Before 1970 or beyond the index's 64 bits: everything, or nothing.
            return FromTime(min(max(0, wall_ns), (1 << 64) - 1))
        case _:
            return FromOffset(request.offset)


def log_item(item: LogItem) -> job_service_pb2.ReadLogResponse:
    """Return one item of a log."""
    match item:
        case TimedChunk(chunk, times):
            return job_service_pb2.ReadLogResponse(
                chunk=job_service_pb2.LogChunk(
                    offset=chunk.offset,
                    data=chunk.data,
                    times=[
                        job_service_pb2.LogTime(offset=offset, written_at=timestamp(wall_ns))
                        for offset, wall_ns in times
                    ],
                )
            )
        case Gap(offset, end, reason):
            return job_service_pb2.ReadLogResponse(
                gap=job_service_pb2.LogGap(
                    from_offset=offset, to_offset=end, reason=GAP_REASONS[reason]
                )
            )
        case Fin(next_offset, job_over):
            return job_service_pb2.ReadLogResponse(
                fin=job_service_pb2.LogFin(next_offset=next_offset, job_over=job_over)
            )


def timestamp(wall_ns: int) -> Timestamp:
    """Return a time, nanoseconds since the epoch, as the wire has it."""
    seconds, nanos = divmod(wall_ns, _NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def event(happened: Event, log_bytes: int) -> job_pb2.JobEvent:
    """Return one event with the job as it then was."""
    return job_pb2.JobEvent(
        seq=happened.seq,
        occurred_at=timestamp(happened.occurred_at_ns),
        kind=happened.kind,
        job=job(happened.job, log_bytes),
        detail=wire_text(happened.detail),
    )


def job(info: JobInfo, log_bytes: int, remarks: Remarks = Remarks()) -> job_pb2.Job:  # noqa: B008  # frozen
    """Return a job; `log_bytes` is the logical end of its log."""
    spec = info.spec
    message = job_pb2.Job(
        id=spec.id,
        name=wire_text(spec.name),
        argv=_encoded(spec.argv),
        cwd=os.fsencode(spec.cwd),
        labels={wire_text(key): wire_text(value) for key, value in spec.labels.items()},
        submitted_at=timestamp(spec.submitted_at_ns),
        mem_limit_bytes=spec.mem_limit_bytes,
        log_bytes=log_bytes,
        output_kind=OUTPUT_KINDS[type(spec.output)],
        event_seq=info.event_seq,
        mem_action=action_of(spec),
        preemptible=spec.preemptible,
        requeue_limit=spec.requeue_limit,
        requeue_count=spec.requeue_count,
        requeue_of=spec.requeue_of,
        requeued_as=spec.requeued_as,
    )
    _set_state(message, info.state)
    _set_remarks(message, info.state, remarks)
    return message


def _set_remarks(message: job_pb2.Job, state: core.State, remarks: Remarks) -> None:
    match state:
        case core.Paused():
            message.paused.reason = wire_text(remarks.guard_reason)
        case core.Stopping():
            message.stopping.reason = wire_text(remarks.guard_reason)
        case _:
            pass
    if remarks.requeue_at_ns is not None:
        message.requeue_at.CopyFrom(timestamp(remarks.requeue_at_ns))
    message.requeue_cancelled = wire_text(remarks.requeue_cancelled)


def action_of(spec: JobSummary) -> job_pb2.MemAction.ValueType:
    """Return what happens to the job over its own limit; unspecified: it has none. Pure."""
    if spec.mem_limit_bytes is None:
        return job_pb2.MEM_ACTION_UNSPECIFIED
    return MEM_ACTIONS[spec.mem_action]


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [os.fsencode(text) for text in texts]


def _set_state(message: job_pb2.Job, state: core.State) -> None:
    match state:
        case core.Queued():
            message.queued.SetInParent()
        case core.Starting():
            message.starting.SetInParent()
        case core.Running(handle):
            message.running.SetInParent()
            _set_handle(message.running, handle)
        case core.Paused(handle):
            message.paused.SetInParent()
            _set_handle(message.paused, handle)
        case core.Stopping(maybe_handle, cause):
            message.stopping.cause = CAUSES[cause]
            if maybe_handle is not None:
                _set_handle(message.stopping, maybe_handle)
        case core.Ended():
            message.ended.CopyFrom(_ended(state))
        case core.StartFailed():
            message.start_failed.CopyFrom(_start_failed(state))
        case core.Lost():
            message.lost.CopyFrom(_lost(state))


def _set_handle(
    message: job_pb2.Running | job_pb2.Paused | job_pb2.Stopping, handle: core.LeaderHandle
) -> None:
    message.started_at.CopyFrom(timestamp(handle.started_at_ns))
    message.leader_pid = handle.leader.pid
    message.shim_pid = handle.shim_pid or 0


def _ended(state: core.Ended) -> job_pb2.Ended:
    message = job_pb2.Ended(
        started_at=timestamp(state.started_at_ns),
        ended_at=timestamp(state.ended_at_ns),
        cause=CAUSES[state.cause],
        reason=wire_text(state.reason),
        usage=job_pb2.ResourceUsage(
            cpu_user_s=_finite(state.usage.cpu_user_s),
            cpu_system_s=_finite(state.usage.cpu_system_s),
            peak_memory_bytes=state.usage.peak_memory_bytes,
        ),
    )
    if state.status.exit_code is not None:
        message.exit_code = state.status.exit_code
    else:
        message.signaled.signal_number = state.status.signal_number or 0
        message.signaled.core_dumped = state.status.core_dumped
    return message


def _start_failed(state: core.StartFailed) -> job_pb2.StartFailed:
    return job_pb2.StartFailed(
        failed_at=timestamp(state.failed_at_ns),
        cause=CAUSES[state.cause],
        reason=wire_text(state.reason),
        errno=state.errno,
        path=os.fsencode(state.path),
    )


def _lost(state: core.Lost) -> job_pb2.Lost:
    return job_pb2.Lost(
        noticed_at=timestamp(state.noticed_at_ns),
        cause=CAUSES[state.cause],
        reason=wire_text(state.reason),
        started_at=None if state.started_at_ns is None else timestamp(state.started_at_ns),
        surviving_pids=state.surviving_pids,
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
