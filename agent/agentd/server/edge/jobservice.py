"""JobService of the wire: decode, call, encode."""

# ruff: noqa: N802  # the methods are named as in the protos

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

from grpc.aio import ServicerContext

from agentapi.v1 import job_pb2
from agentapi.v1 import job_service_pb2 as pb
from agentapi.v1.job_service_pb2_grpc import JobServiceServicer
from agentd.core.job import Queued, Starting
from agentd.paths import Paths
from agentd.server.edge import convert
from agentd.server.runtime.jobwatch import WatchFin, WatchItem, WatchRequest, watch
from agentd.server.runtime.logfollow import LogService
from agentd.server.runtime.logs import log_bytes
from agentd.server.runtime.model import Event, JobInfo
from agentd.server.runtime.supervisor import Supervisor

#: The end of a log costs a look at the job's directory: worth it for a screenful.
_LARGEST_PAGE_WITH_BYTES = 200

_Context: TypeAlias = "ServicerContext[Any, Any]"


class JobService(JobServiceServicer):
    """Every method raises AgentError; the interceptor makes it a status."""

    def __init__(self, paths: Paths, supervisor: Supervisor, logs: LogService) -> None:
        """Serves any number of server objects."""
        self._paths = paths
        self._supervisor = supervisor
        self._logs = logs

    async def SubmitJob(
        self, request: pb.SubmitJobRequest, _context: _Context
    ) -> pb.SubmitJobResponse:
        """Take a job on; asked again under its key, answer with the same job."""
        return pb.SubmitJobResponse(
            job=self._job(await self._supervisor.submit(convert.draft(request)))
        )

    async def GetJob(self, request: pb.GetJobRequest, _context: _Context) -> pb.GetJobResponse:
        """Return one job."""
        return pb.GetJobResponse(job=self._job(self._supervisor.get(request.job_id)))

    async def ListJobs(
        self, request: pb.ListJobsRequest, _context: _Context
    ) -> pb.ListJobsResponse:
        """Return a page, newest first."""
        page = self._supervisor.list(convert.query(request))
        with_bytes = len(page.jobs) <= _LARGEST_PAGE_WITH_BYTES
        return pb.ListJobsResponse(
            jobs=[self._job(info, with_bytes=with_bytes) for info in page.jobs],
            next_before_id=page.next_before_id,
        )

    async def WatchJobs(
        self, request: pb.WatchJobsRequest, _context: _Context
    ) -> AsyncIterator[pb.WatchJobsResponse]:
        """Stream events from a cursor on."""
        wanted = WatchRequest(
            job_ids=frozenset(request.job_ids),
            after_seq=request.after_seq if request.HasField("after_seq") else None,
            follow=request.follow,
        )
        async with aclosing(watch(self._supervisor, wanted)) as items:
            async for item in items:
                yield self._watch_item(item)

    async def StopJob(self, request: pb.StopJobRequest, _context: _Context) -> pb.StopJobResponse:
        """Begin the stop ladder."""
        info = await self._supervisor.stop(
            request.job_id, convert.grace_s(request), request.idempotency_key
        )
        return pb.StopJobResponse(job=self._job(info))

    async def SignalJob(
        self, request: pb.SignalJobRequest, _context: _Context
    ) -> pb.SignalJobResponse:
        """Send one signal."""
        info = await self._supervisor.signal(
            request.job_id, request.signal_number, request.idempotency_key
        )
        return pb.SignalJobResponse(job=self._job(info))

    async def PauseJob(
        self, request: pb.PauseJobRequest, _context: _Context
    ) -> pb.PauseJobResponse:
        """Stop every process of the job for a while."""
        info = await self._supervisor.pause(request.job_id, request.idempotency_key)
        return pb.PauseJobResponse(job=self._job(info))

    async def ResumeJob(
        self, request: pb.ResumeJobRequest, _context: _Context
    ) -> pb.ResumeJobResponse:
        """Let a paused job go on."""
        info = await self._supervisor.resume(request.job_id, request.idempotency_key)
        return pb.ResumeJobResponse(job=self._job(info))

    async def RemoveJob(
        self, request: pb.RemoveJobRequest, _context: _Context
    ) -> pb.RemoveJobResponse:
        """Forget a job that is over, with its log."""
        await self._supervisor.remove(request.job_id, request.idempotency_key)
        return pb.RemoveJobResponse()

    async def ReadLog(
        self, request: pb.ReadLogRequest, _context: _Context
    ) -> AsyncIterator[pb.ReadLogResponse]:
        """Stream a job's output from any offset."""
        async with aclosing(self._logs.read(convert.log_request(request))) as items:
            async for item in items:
                yield convert.log_item(item)

    def _job(self, info: JobInfo, *, with_bytes: bool = True) -> job_pb2.Job:
        size_bytes = self._log_bytes(info) if with_bytes else 0
        return convert.job(info, size_bytes, self._supervisor.remarks(info))

    def _log_bytes(self, info: JobInfo) -> int:
        if isinstance(info.state, Queued | Starting):
            # Every submit is answered in one of these: no look at the disk.
            return 0
        return log_bytes(self._paths.job(info.spec.id), info.spec.output)

    def _watch_item(self, item: WatchItem) -> pb.WatchJobsResponse:
        match item:
            case Event():
                event = convert.event(item, self._log_bytes(item.job))
                return pb.WatchJobsResponse(event=event)
            case JobInfo():
                return pb.WatchJobsResponse(snapshot=self._job(item))
            case WatchFin(last_seq):
                return pb.WatchJobsResponse(fin=pb.WatchFin(last_seq=last_seq))
