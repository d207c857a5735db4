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
from agentd.errors import JobNotFoundError
from agentd.server.edge.convert import timestamp
from agentd.server.edge.errors import wire_text
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
_Context: TypeAlias = "ServicerContext[Any, Any]"


class GuardService(GuardServiceServicer):
    """Every method raises AgentError; the interceptor makes it a status."""

    def __init__(self, supervisor: Supervisor) -> None:
        """Serves any number of server objects."""
        self._supervisor = supervisor

    async def GetGuard(
        self, _request: pb.GetGuardRequest, _context: _Context
    ) -> pb.GetGuardResponse:
        """Ask the warden how it stands."""
        report = await self._supervisor.guard_report()
        return pb.GetGuardResponse(
            enabled=report.enabled,
            dry_run=report.dry_run,
            layers=[wire_text(layer) for layer in report.layers],
            host=host(report),
            jobs=[guarded_job(job, self._name(job.job_id)) for job in report.jobs],
            notices=[guard_notice(notice) for notice in report.notices],
        )

    def _name(self, job_id: int) -> str:
        try:
            return self._supervisor.get(job_id).spec.name
        except JobNotFoundError:
            # The warden may mind a job a moment longer than the index knows it.
            return ""


def host(report: GuardReport) -> pb.HostMemory:
    """Return the host's part of a report. Pure."""
    after_s = report.exhausted_after_s
    return pb.HostMemory(
        total_bytes=report.host_total_bytes,
        available_bytes=report.host_available_bytes,
        falling_bytes_per_s=report.host_rate_bytes_per_s,
        exhausted_after_s=after_s if after_s is not None and math.isfinite(after_s) else None,
        warn_bytes=report.warn_bytes,
        pause_bytes=report.pause_bytes,
        term_bytes=report.term_bytes,
        kill_bytes=report.kill_bytes,
    )


def guarded_job(job: GuardJob, name: str) -> pb.GuardedJob:
    """Return one job of a report. Pure."""
    return pb.GuardedJob(
        job_id=job.job_id,
        name=wire_text(name),
        upper_bytes=job.upper_bytes,
        held_bytes=job.held_bytes,
        limit_bytes=job.limit_bytes or None,
        growing_bytes_per_s=job.rate_bytes_per_s,
        why=wire_text(job.why),
    )


def guard_notice(notice: GuardNotice) -> pb.GuardNotice:
    """Return one notice. Pure."""
    return pb.GuardNotice(
        kind=NOTICE_KINDS[notice.kind],
        occurred_at=timestamp(notice.occurred_at_ns),
        text=wire_text(notice.text),
        job_id=notice.job_id or None,
    )
