"""The guard's report from the wire. A value this version does not know raises."""

from __future__ import annotations

from agentapi.v1 import guard_service_pb2 as wire
from agentctl.api.convert import mem_action_from_wire, state_from_wire, time_from_wire
from agentctl.errors import ApiLevelMismatchError
from agentctl.guard import (
    Guard,
    GuardedJob,
    GuardNotice,
    HostMemory,
    Mark,
    MarkRule,
    NoticeKind,
)

_KINDS = {
    wire.GUARD_NOTICE_KIND_WARNED: NoticeKind.WARNED,
    wire.GUARD_NOTICE_KIND_PAUSED: NoticeKind.PAUSED,
    wire.GUARD_NOTICE_KIND_RELEASED: NoticeKind.RELEASED,
    wire.GUARD_NOTICE_KIND_TERMINATED: NoticeKind.TERMINATED,
    wire.GUARD_NOTICE_KIND_KILLED: NoticeKind.KILLED,
    wire.GUARD_NOTICE_KIND_CAME_BACK: NoticeKind.CAME_BACK,
    wire.GUARD_NOTICE_KIND_WOULD_ACT: NoticeKind.WOULD_ACT,
}


def guard_from_wire(report: wire.GetGuardResponse) -> Guard:
    """Return the report. Raises ApiLevelMismatchError. Pure."""
    return Guard(
        enabled=report.enabled,
        dry_run=report.dry_run,
        layers=tuple(report.layers),
        host=_host(report.host),
        jobs=tuple(_job(job) for job in report.jobs),
        notices=tuple(_notice(notice) for notice in report.notices),
        config_error=report.config_error,
        pause_limit_s=(
            report.pause_limit.ToNanoseconds() / 1e9 if report.HasField("pause_limit") else None
        ),
    )


def _host(host: wire.HostMemory) -> HostMemory:
    return HostMemory(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        falling_bytes_per_s=host.falling_bytes_per_s,
        exhausted_after_s=host.exhausted_after_s if host.HasField("exhausted_after_s") else None,
        warn_bytes=host.warn_bytes,
        pause_bytes=host.pause_bytes,
        term_bytes=host.term_bytes,
        kill_bytes=host.kill_bytes,
        rules={
            mark: MarkRule(rule.percent, rule.cap_bytes)
            for mark, rule in (
                (Mark.WARN, host.warn),
                (Mark.PAUSE, host.pause),
                (Mark.TERM, host.term),
                (Mark.KILL, host.kill),
            )
            if rule.percent
        },
    )


def _job(job: wire.GuardedJob) -> GuardedJob:
    return GuardedJob(
        job_id=job.job_id,
        name=job.name or None,
        upper_bytes=job.upper_bytes if job.HasField("upper_bytes") else None,
        held_bytes=job.held_bytes if job.HasField("held_bytes") else None,
        limit_bytes=job.limit_bytes if job.HasField("limit_bytes") else None,
        growing_bytes_per_s=job.growing_bytes_per_s,
        why=job.why,
        state=state_from_wire(job.state),
        preemptible=job.preemptible,
        mem_action=mem_action_from_wire(job.mem_action),
    )


def _notice(notice: wire.GuardNotice) -> GuardNotice:
    if notice.kind not in _KINDS:
        raise ApiLevelMismatchError(
            f"the agent sent a guard's notice ({notice.kind}) that this agentctl does not know; "
            "update agentctl"
        )
    return GuardNotice(
        kind=_KINDS[notice.kind],
        occurred_at=time_from_wire(notice.occurred_at),
        text=notice.text,
        job_id=notice.job_id if notice.HasField("job_id") else None,
    )
