"""A real gRPC server whose answers a test writes, for what a healthy agent never does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from agentapi.v1.job_service_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from agentctl.api.channel import Connection

Answer = Callable[[Any, grpc.ServicerContext], Any]


class Scripted(JobServiceServicer):
    """Answers the n-th call of each method with the n-th answer, the last one for ever."""

    def __init__(self, **answers: list[Answer]) -> None:
        """Take lists of answers by method name."""
        self._answers = answers
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def _next(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401  # any message
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        left = self._answers[method]
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(request, context)

    def SubmitJob(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802  # gRPC's
        """Answer as written."""
        return self._next("SubmitJob", request, context)

    def GetJob(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802  # gRPC's
        """Answer as written."""
        return self._next("GetJob", request, context)

    def WatchJobs(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802  # gRPC's
        """Answer as written."""
        yield from self._next("WatchJobs", request, context)

    def ReadLog(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802  # gRPC's
        """Answer as written."""
        yield from self._next("ReadLog", request, context)


def scripted(**answers: list[Answer]) -> Scripted:
    """Return a servicer with these answers; what it has none for is unimplemented."""
    return Scripted(**answers)  # type: ignore[abstract]  # only the stubs call it abstract


class FixedLink:
    """A link to one socket; counts how often it was asked."""

    host = "local"
    is_remote = False

    def __init__(self, path: str) -> None:
        """Lead to `path`."""
        self.path = path
        self.connects = 0
        self.breaks = 0

    def connect(self, patience_s: float) -> str:
        """Return the path."""
        self.connects += 1
        return self.path

    def doubt(self, path: str) -> str | None:
        """Know the agent."""
        assert path == self.path
        return None

    def broken(self, path: str) -> None:
        """Count it."""
        assert path == self.path
        self.breaks += 1

    def close(self) -> None:
        """Hold nothing."""


@contextmanager
def serving(servicer: Scripted, path: str) -> Iterator[None]:
    """Serve on the unix socket `path`."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_JobServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


@contextmanager
def connected(servicer: Scripted, directory: str, patience_s: float = 15.0) -> Iterator[Connection]:
    """Yield a connection to a server with these answers."""
    path = os.path.join(directory, "s")
    with serving(servicer, path):
        connection = Connection(FixedLink(path), patience_s)
        try:
            yield connection
        finally:
            connection.close()


def aborting(code: grpc.StatusCode, reason: str = "", text: str = "no") -> Answer:
    """Return an answer that fails."""

    def answer(_request: object, context: grpc.ServicerContext) -> Any:  # noqa: ANN401  # never returns
        if reason:
            context.set_trailing_metadata((("agent-reason", reason),))
        context.abort(code, text)

    return answer


def giving(value: object) -> Answer:
    """Return an answer that succeeds."""
    return lambda _request, _context: value
