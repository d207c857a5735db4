"""Errors on their way to the client, over a real server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from agentapi.v1 import agent_service_pb2 as agent_pb
from agentapi.v1 import job_pb2
from agentapi.v1 import job_service_pb2 as pb
from agentapi.v1.job_service_pb2_grpc import (
    JobServiceServicer,
    JobServiceStub,
    add_JobServiceServicer_to_server,
)
from agentd import __version__
from agentd import errors as tree
from agentd.core.wire import API_LEVEL
from agentd.errors import AgentError, JobNotFoundError, SystemCallError, WrongStateError
from agentd.server.edge import errors
from agentd.server.edge.interceptor import (
    API_LEVEL_KEY,
    VERSION_KEY,
    EdgeInterceptor,
    Gate,
)

if TYPE_CHECKING:
    # Only the stubs know of it: at run time one class serves both kinds of channel.
    from agentapi.v1.job_service_pb2_grpc import JobServiceAsyncStub


def subclasses(of: type[AgentError]) -> set[type[AgentError]]:
    """Return every error of ours, the base too."""
    return {of}.union(*(subclasses(kind) for kind in of.__subclasses__()))


def test_every_reason_has_a_status() -> None:
    """The table is total over the tree of errors."""
    ours = {kind for kind in subclasses(AgentError) if kind.__module__ == tree.__name__}
    assert {kind.reason for kind in ours} == set(errors.STATUS_CODES)
    assert len({kind.reason for kind in ours}) == len(ours)


def test_a_message_is_valid_and_of_bounded_length() -> None:
    """A path of 100 kB with odd bytes must not break the answer itself."""
    text = errors.message(WrongStateError("\udcff" * 100_000))
    assert text.startswith("\\udcff")
    assert len(text.encode()) <= 2000


class Servicer(JobServiceServicer):
    """Does whatever the test wants."""

    def __init__(self) -> None:
        self.act: Callable[[], Awaitable[None]] = self.nothing

    async def nothing(self) -> None:
        """Succeed."""

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:  # noqa: N802  # as in the protos
        """Act, then answer."""
        await self.act()
        return pb.GetJobResponse(job=job_pb2.Job(id=request.job_id))

    async def SubmitJob(  # noqa: N802  # as in the protos
        self, request: pb.SubmitJobRequest, context: object
    ) -> pb.SubmitJobResponse:
        """Act, then answer with job 5."""
        await self.act()
        return pb.SubmitJobResponse(job=job_pb2.Job(id=5))

    async def ReadLog(  # noqa: N802  # as in the protos
        self, request: pb.ReadLogRequest, context: object
    ) -> AsyncIterator[pb.ReadLogResponse]:
        """Send one item, then act."""
        yield pb.ReadLogResponse(chunk=pb.LogChunk(data=b"x"))
        await self.act()


@dataclass
class Served:
    """A server and a client of it."""

    servicer: Servicer
    gate: Gate
    stub: JobServiceAsyncStub
    channel: grpc.aio.Channel


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Serve on a socket below `tmp_path`; its end proves that no call is left."""
    gate = Gate()
    servicer = Servicer()  # type: ignore[abstract]  # only the stubs call it so
    server = grpc.aio.server(interceptors=[EdgeInterceptor(gate)])
    add_JobServiceServicer_to_server(servicer, server)
    target = f"unix:{tmp_path}/s"
    server.add_insecure_port(target)
    await server.start()
    async with grpc.aio.insecure_channel(target) as channel:
        stub: JobServiceAsyncStub = JobServiceStub(channel)  # type: ignore[assignment]  # see above
        yield Served(servicer, gate, stub, channel)
    await server.stop(0)
    assert not gate._followers


def failing(error: BaseException) -> Callable[[], Awaitable[None]]:
    """Return an act that raises."""

    async def act() -> None:
        raise error

    return act


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """Return the agent-reason trailer."""
    return dict(error.trailing_metadata() or ()).get(errors.REASON_KEY)


SOME = [JobNotFoundError("no job 7"), SystemCallError("read it", OSError(5, "I/O error"))]


@pytest.mark.parametrize("error", SOME, ids=lambda error: error.reason)
def test_an_error_of_ours_travels_by_reason_in_unary_calls(
    tmp_path: Path, error: AgentError
) -> None:
    """Status, text and trailer."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            at.servicer.act = failing(error)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.stub.GetJob(pb.GetJobRequest(job_id=7))
            assert caught.value.code() is errors.STATUS_CODES[error.reason]
            assert caught.value.details() == str(error)
            assert reason_of(caught.value) == error.reason

    asyncio.run(scenario())


@pytest.mark.parametrize("error", SOME, ids=lambda error: error.reason)
def test_an_error_in_the_middle_of_a_stream_travels_by_reason(
    tmp_path: Path, error: AgentError
) -> None:
    """After the items sent before it."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            at.servicer.act = failing(error)
            call = at.stub.ReadLog(pb.ReadLogRequest())
            items = aiter(call)
            assert (await anext(items)).chunk.data == b"x"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(items)
            assert caught.value.code() is errors.STATUS_CODES[error.reason]
            assert reason_of(caught.value) == error.reason

    asyncio.run(scenario())


def test_an_unexpected_error_is_logged_and_not_told(tmp_path: Path) -> None:
    """The client learns that, the log learns what."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            at.servicer.act = failing(ZeroDivisionError("secret"))
            with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.stub.GetJob(pb.GetJobRequest(job_id=7))
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert "secret" not in (caught.value.details() or "")
            crashed, ended = lines
            assert (crashed["event"], crashed["log_level"]) == ("rpc.crashed", "error")
            assert isinstance(crashed["exc_info"], ZeroDivisionError)
            assert ended["code"] == "UNKNOWN"

    asyncio.run(scenario())


def test_each_call_is_one_line(tmp_path: Path) -> None:
    """Reads are debug; what changes something, and what fails, is info."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            with capture_logs() as lines:
                await at.stub.GetJob(pb.GetJobRequest(job_id=7))
                await at.stub.SubmitJob(pb.SubmitJobRequest())
                at.servicer.act = failing(JobNotFoundError("no job 7"))
                with pytest.raises(grpc.aio.AioRpcError):
                    await at.stub.GetJob(pb.GetJobRequest(job_id=7))
            assert all(line.pop("duration_s") >= 0 for line in lines)
            assert [
                (line["log_level"], line["method"], line["code"], line["job_id"]) for line in lines
            ] == [
                ("debug", "GetJob", "OK", 7),
                ("info", "SubmitJob", "OK", 5),
                ("info", "GetJob", "NOT_FOUND", 7),
            ]
            assert lines[2]["reason"] == "job-not-found"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("level", "welcome"), [(None, True), (str(API_LEVEL), True), ("99", False), ("", False)]
)
def test_a_client_of_another_level_is_told_so(
    tmp_path: Path, level: str | None, *, welcome: bool
) -> None:
    """One line that names both; a client that says nothing is let in."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            metadata = () if level is None else ((API_LEVEL_KEY, level),)
            if welcome:
                await at.stub.GetJob(pb.GetJobRequest(), metadata=metadata)
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.stub.GetJob(pb.GetJobRequest(), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason_of(caught.value) == "api-level-mismatch"
            assert f"level {API_LEVEL}" in (caught.value.details() or "")

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "welcome"), [(__version__, True), ("99.0.0", False)])
def test_a_client_too_far_from_this_version_is_told_so(
    tmp_path: Path, version: str, *, welcome: bool
) -> None:
    """One line that says what to do."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            metadata = ((VERSION_KEY, version),)
            if welcome:
                await at.stub.GetJob(pb.GetJobRequest(), metadata=metadata)
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.stub.GetJob(pb.GetJobRequest(), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason_of(caught.value) == "version-mismatch"
            assert "agentctl host upgrade HOST" in (caught.value.details() or "")

    asyncio.run(scenario())


def test_a_cancelled_call_stays_cancelled(tmp_path: Path) -> None:
    """Nothing is made of it but a line."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            reached, cancelled = asyncio.Event(), asyncio.Event()

            async def wait() -> None:
                reached.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            at.servicer.act = wait
            call = at.stub.GetJob(pb.GetJobRequest(job_id=7))
            waiting = asyncio.ensure_future(call)
            await reached.wait()
            call.cancel()
            async with asyncio.timeout(5):
                await cancelled.wait()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(scenario())


def test_draining_refuses_new_calls_and_ends_followers(tmp_path: Path) -> None:
    """Both are told to try again; a call that will end by itself may end."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            reached, finish = asyncio.Event(), asyncio.Event()

            async def wait() -> None:
                reached.set()
                await finish.wait()

            at.servicer.act = wait
            following = aiter(at.stub.ReadLog(pb.ReadLogRequest(follow=True)))
            reading = aiter(at.stub.ReadLog(pb.ReadLogRequest(follow=False)))
            await anext(following)
            await anext(reading)
            await reached.wait()
            at.gate.close()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await anext(following)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await at.stub.GetJob(pb.GetJobRequest())
            for caught in (ended, refused):
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert reason_of(caught.value) == "draining"
            finish.set()
            with pytest.raises(StopAsyncIteration):
                await anext(reading)

    asyncio.run(scenario())


def test_an_unknown_method_is_unimplemented(tmp_path: Path) -> None:
    """A newer client's call is answered as gRPC answers it."""

    async def scenario() -> None:
        async with served(tmp_path) as at:
            call = at.channel.unary_unary(
                "/agentapi.v1.JobService/Later",
                request_serializer=agent_pb.StopAgentRequest.SerializeToString,
                response_deserializer=agent_pb.StopAgentResponse.FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(agent_pb.StopAgentRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(scenario())
