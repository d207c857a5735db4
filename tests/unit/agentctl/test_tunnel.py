"""A tunnel to a port: an attempt that came to nothing leaves the next one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agentapi.v1 import forward_service_pb2 as wire
from agentapi.v1.forward_service_pb2_grpc import (
    ForwardServiceServicer,
    add_ForwardServiceServicer_to_server,
)
from agentctl.api import forward
from agentctl.api.channel import Connection
from agentctl.ports import Target, TcpPlace
from tests.helpers.wait import dawdle

_SHORT_S = 0.3


class _Echo(ForwardServiceServicer):
    """A target that says back what it hears; the first connection is cut before it is open."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._asked = 0

    def ListPorts(  # noqa: N802  # named as in the proto
        self, request: wire.ListPortsRequest, context: grpc.ServicerContext
    ) -> wire.ListPortsResponse:
        """Know none."""
        return wire.ListPortsResponse()

    def Connect(  # noqa: N802  # named as in the proto
        self, request_iterator: Iterator[wire.ConnectRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.ConnectResponse]:
        """Open, then echo."""
        next(request_iterator)
        self._asked += 1
        if self._asked == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        yield wire.ConnectResponse(opened=wire.ConnectOpened())
        for request in request_iterator:
            yield wire.ConnectResponse(data=request.data)


class _Link:
    """The way to one socket."""

    host = "far"
    is_remote = True

    def __init__(self, path: str) -> None:
        self._path = path

    def connect(self, patience_s: float) -> str:
        """Return it."""
        return self._path

    def doubt(self, path: str) -> str | None:
        """Know the agent."""
        return None

    def broken(self, path: str) -> None:
        """Take note."""

    def close(self) -> None:
        """Hold nothing."""


def test_an_attempt_that_came_to_nothing_does_not_break_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time runs out later, while the connection is in use."""
    monkeypatch.setattr(forward, "_OPEN_WITHIN_S", _SHORT_S)
    server = grpc.server(ThreadPoolExecutor(4))
    add_ForwardServiceServicer_to_server(_Echo(), server)
    server.add_insecure_port(f"unix:{tmp_path}/there")
    server.start()
    connection = Connection(_Link(f"{tmp_path}/there"))
    sent = threading.Semaphore(0)
    try:
        tunnel = forward.Tunnel(connection, Target(TcpPlace(80)))
        tunnel.open(lambda: b"late" if sent.acquire(timeout=30) else b"")
        dawdle(2 * _SHORT_S)
        sent.release()

        assert next(iter(tunnel)) == b"late"
        tunnel.close()
    finally:
        connection.close()
        sent.release()
        server.stop(0).wait(10)
