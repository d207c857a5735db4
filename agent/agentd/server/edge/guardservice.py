"""GuardService of the wire: the guard's view of host and jobs."""

# ruff: noqa: N802  # the methods are named as in the protos

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, TypeAlias

from grpc.aio import ServicerContext

from agentapi.v1 import guard_service_pb2 as pb
from agentapi.v1.guard_service_pb2_grpc import GuardServiceServicer
from agentd.core.contract import GuardJob, GuardNotice, GuardReport, NoticeKind
from agentd.core.guard.model import Mark, Marks
from agentd.core.job import State
from agentd.errors import JobNotFoundError
from agentd.server.config import ConfigFile
from agentd.server.edge.convert import STATES, action_of, timestamp
from agentd.server.edge.errors import wire_text
from agentd.server.runtime.model import JobInfo
from agentd.server.runtime.supervisor import Supervisor

NOTICE_KINDS = MappingProxyType(
    {
        NoticeKind.WARNED: pb.GUARD_NOTICE_KIND_WARNED,
        NoticeKind.PAUSED: pb.GUARD_NOTICE_KIND_PAUSED,
        NoticeKind.RELEASED: pb.GUARD_NOTICE_KIND_RELEASED,
        NoticeKind.TERMINATED: pb.GUARD_NOTICE_KIND_TERMINATED,
        NoticeKind.KILLED: pb.GUARD_NOTICE_KIND_KILLED,
        NoticeKind.CAME_BACK: pb.GUARD_NOTICE_KIND_CAME_BACK,
        NoticeKind.WOULD_ACT: pb.GUARD_NOTICE_KIND_WOULD_ACT,
    }
)
_STATES: MappingProxyType[type[State], Any] = MappingProxyType(
    {kind: number for number, kind in STATES.items()}
)
_NS = 1_000_000_000
_Context: TypeAlias = "ServicerContext[Any, Any]"


class GuardService(GuardServiceServicer):
    """Every method raises AgentError; the interceptor makes it a status."""

    def __init__(self, supervisor: Supervisor, config: ConfigFile) -> None:
        """Serves any number of server objects."""
        self._supervisor = supervisor
        self._config = config

    async def GetGuard(
        self, _request: pb.GetGuardRequest, _context: _Context
    ) -> pb.GetGuardResponse:
        """Ask the warden how it stands."""
        report = await self._supervisor.guard_report()
        # Before any file was good the warden goes on with a policy that only it knows.
        policy = self._config.current.guard if self._config.was_ever_good else None
        response = pb.GetGuardResponse(
            enabled=report.enabled,
            dry_run=report.dry_run,
            layers=[wire_text(layer) for layer in report.layers],
            host=host(report, None if policy is None else policy.marks),
            jobs=[guarded_job(job, self._info(job.job_id)) for job in report.jobs],
            notices=[guard_notice(notice) for notice in report.notices],
            config_error=wire_text(self._config.complaint),
        )
        if policy is not None:
            response.pause_limit.FromNanoseconds(round(policy.pause_limit_s * _NS))
        return response

    def _info(self, job_id: int) -> JobInfo | None:
        try:
            return self._supervisor.get(job_id)
        except JobNotFoundError:
            # The warden may mind a job a moment longer than the index knows it.
            return None


def host(report: GuardReport, marks: Marks | None) -> pb.HostMemory:
    """Return the host's part of a report; `marks`: what its marks come from, if known. Pure."""
    after_s = report.exhausted_after_s
    message = pb.HostMemory(
        total_bytes=report.host_total_bytes,
        available_bytes=report.host_available_bytes,
        falling_bytes_per_s=report.host_rate_bytes_per_s,
        exhausted_after_s=after_s if after_s is not None and math.isfinite(after_s) else None,
        warn_bytes=report.warn_bytes,
        pause_bytes=report.pause_bytes,
        term_bytes=report.term_bytes,
        kill_bytes=report.kill_bytes,
    )
    if marks is not None:
        message.warn.CopyFrom(_mark(marks.warn))
        message.pause.CopyFrom(_mark(marks.pause))
        message.term.CopyFrom(_mark(marks.term))
        message.kill.CopyFrom(_mark(marks.kill))
    return message


def _mark(mark: Mark) -> pb.GuardMark:
    return pb.GuardMark(percent=mark.percent, cap_bytes=mark.cap_bytes)


def guarded_job(job: GuardJob, info: JobInfo | None) -> pb.GuardedJob:
    """Return one job of a report; `info`: what the index knows of it. Pure."""
    message = pb.GuardedJob(
        job_id=job.job_id,
        upper_bytes=job.upper_bytes,
        held_bytes=job.held_bytes,
        limit_bytes=job.limit_bytes or None,
        growing_bytes_per_s=job.rate_bytes_per_s,
        why=wire_text(job.why),
    )
    if info is not None:
        message.name = wire_text(info.spec.name)
        message.state = _STATES[type(info.state)]
        message.preemptible = info.spec.preemptible
        message.mem_action = action_of(info.spec)
    return message


def guard_notice(notice: GuardNotice) -> pb.GuardNotice:
    """Return one notice. Pure."""
    return pb.GuardNotice(
        kind=NOTICE_KINDS[notice.kind],
        occurred_at=timestamp(notice.occurred_at_ns),
        text=wire_text(notice.text),
        job_id=notice.job_id or None,
    )
