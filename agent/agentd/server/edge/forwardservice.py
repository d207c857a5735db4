"""ForwardService of the wire: connections to ports of the host, as streams of messages."""

# ruff: noqa: N802  # the methods are named as in the protos

from __future__ import annotations

import asyncio
import ctypes
import functools
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeAlias

from grpc.aio import EOF, ServicerContext

from agentapi.v1 import forward_service_pb2 as pb
from agentapi.v1.forward_service_pb2_grpc import ForwardServiceServicer
from agentd.errors import InvalidSpecError, PortRefusedError
from agentd.server.edge.errors import wire_text
from agentd.server.runtime.ports import Ports, Target
from agentd.system.ports import Listening, TcpPort

#: A message costs some 100 us on either side whatever it holds.
_CHUNK_BYTES = 256 << 10
#: Of mallopt(3). By default what a message held goes back to the kernel at once, to be taken
#: anew, page by page, for the next: a quarter of all the time that a stream takes.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 4 << 20
#: Off after zero seconds: a close sends a reset (SO_LINGER, socket(7)).
_RESET = struct.pack("ii", 1, 0)

_Context: TypeAlias = "ServicerContext[Any, Any]"


class ForwardService(ForwardServiceServicer):
    """Every method raises AgentError; the interceptor makes it a status."""

    def __init__(self, ports: Ports) -> None:
        """Serves any number of server objects."""
        self._ports = ports

    async def ListPorts(
        self, request: pb.ListPortsRequest, _context: _Context
    ) -> pb.ListPortsResponse:
        """Return where a job's own processes listen."""
        found = await self._ports.of_job(request.job_id)
        return pb.ListPortsResponse(ports=[_port(one) for one in found])

    async def Connect(  # type: ignore[override]  # the generated base is a plain function
        self, _requests: AsyncIterator[pb.ConnectRequest], context: _Context
    ) -> None:
        """Be one connection, until both sides have said that they are at their end."""
        first = await context.read()
        if first is EOF or first.WhichOneof("message") != "target":
            raise InvalidSpecError("the first message of a connection names its target")
        end = await self._ports.connect(_target(first.target))
        _keep_freed_memory()
        try:
            await context.write(pb.ConnectResponse(opened=pb.ConnectOpened()))
            await _both(_to_target(context, end), _from_target(context, end))
        except BaseException:
            # Nobody at the target may take a cut for the end of what was sent.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise
        finally:
            end.close()


@functools.cache
def _keep_freed_memory() -> None:
    """Have malloc keep what one message held for the next one, at most 4 MB; only once."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries have no such call, and no such habit.
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


async def _both(first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None]) -> None:
    tasks = (asyncio.create_task(first), asyncio.create_task(second))
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # The socket must have no reader left when it is closed.
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_target(context: _Context, end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    takes_more = True
    while True:
        request = await context.read()
        if request is EOF:
            # Without an end of its data: the client has broken off.
            raise asyncio.CancelledError
        if request.HasField("end"):
            break
        try:
            if takes_more:
                await loop.sock_sendall(end, request.data)
        except OSError:
            # It reads no more; what it still says goes on, and its reset is seen there.
            takes_more = False
    try:
        end.shutdown(socket.SHUT_WR)
    except OSError:
        # It has closed already.
        return


async def _from_target(context: _Context, end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(end, _CHUNK_BYTES)
        except OSError as error:
            raise PortRefusedError(f"the connection was cut: {error.strerror}") from error
        if not data:
            break
        await context.write(pb.ConnectResponse(data=data))
    await context.write(pb.ConnectResponse(end=pb.ConnectEnd()))


def _target(target: pb.ConnectTarget) -> Target:
    is_unix = target.WhichOneof("place") == "unix_path"
    return Target(target.job_id or None, target.unix_path if is_unix else target.tcp_port)


def _port(one: Listening) -> pb.ListeningPort:
    port = pb.ListeningPort(pid=one.pid, process_name=wire_text(one.process_name))
    if isinstance(one.place, TcpPort):
        port.tcp_port, port.address = one.place.number, one.place.address
    else:
        port.unix_path = one.place.path
    return port
