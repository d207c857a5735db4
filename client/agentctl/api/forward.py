"""Connections to ports of the host, one gRPC stream each.

Nothing of the local side is read before the target has taken the connection: until then a cut
link is mended, or its time runs out, and the connection is asked for again. Later a cut is a
cut: what was under way is lost, and whoever reads must not take it for an end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from agentapi.v1 import forward_service_pb2 as wire
from agentapi.v1.forward_service_pb2_grpc import ForwardServiceStub
from agentctl.api.channel import METADATA
from agentctl.api.faults import Fault
from agentctl.api.patience import Patience
from agentctl.errors import ApiLevelMismatchError, ClientClosedError, TryAgainError
from agentctl.ports import JobPort, Place, Target, TcpPlace, UnixPlace

if TYPE_CHECKING:
    from agentctl.api.channel import Connection

#: More than the agent gives a target, and a link that freezes meanwhile.
_OPEN_WITHIN_S = 60.0


def ports_of(connection: Connection, job_id: int) -> tuple[JobPort, ...]:
    """Return where the job's own processes listen. Raises AgentctlError."""
    answer = connection.call_channel(
        lambda channel: ForwardServiceStub(channel).ListPorts, wire.ListPortsRequest(job_id=job_id)
    )
    return tuple(map(_port, answer.ports))


def _port(port: wire.ListeningPort) -> JobPort:
    match port.WhichOneof("place"):
        case "tcp_port":
            place: Place = TcpPlace(port.tcp_port)
        case "unix_path":
            place = UnixPlace(port.unix_path)
        case _:
            raise ApiLevelMismatchError("the agent names a kind of port that this version lacks")
    return JobPort(place, port.address, port.pid, port.process_name)


class _Attempt:
    """One call of several that a tunnel may need to open."""

    def __init__(self) -> None:
        """It is not known yet what becomes of it."""
        self._decided = threading.Event()
        self._is_open = False

    def decide(self, *, is_open: bool) -> None:
        """Say what became of it."""
        self._is_open = is_open
        self._decided.set()

    def is_open_within(self, most_s: float) -> bool:
        """Wait until that is known; False too if it is not in time."""
        return self._decided.wait(most_s) and self._is_open


class Tunnel:
    """One connection to a target; `open`, then iterate over what it says."""

    def __init__(self, connection: Connection, target: Target) -> None:
        """Go through `connection`; nothing happens before `open`."""
        self._connection = connection
        self._target = target
        self._answers: Iterator[wire.ConnectResponse] = iter(())
        self._call: grpc.Call | None = None
        self._closed = threading.Event()

    def open(self, read: Callable[[], bytes]) -> None:
        """Connect; from then on send what `read` returns, in another thread, until it is empty.

        `read` raises OSError when the local side has broken off; the tunnel then does so too.

        Raises:
            RefusedError: The target does not take it.
            AgentctlError: The agent is not there, or was not in time.

        """
        patience = Patience()
        while True:
            if self._closed.is_set():
                raise ClientClosedError("the connection was given up")
            try:
                line = self._connection.line(patience.left_s)
            except TryAgainError as error:
                patience.spend(error)
                continue
            attempt = _Attempt()
            try:
                call = ForwardServiceStub(line.channel).Connect(
                    self._requests(attempt, read), metadata=METADATA
                )
                self._call = call
                next(call)
            except grpc.RpcError as error:
                attempt.decide(is_open=False)
                fault = Fault(error, self._connection.link.host)
                if self._closed.is_set() or not fault.is_passing:
                    raise fault.to_error() from None
                if fault.is_cut:
                    self._connection.drop(line, None if fault.reason else fault.to_error())
                patience.spend(fault.to_error())
            except ValueError:
                # How gRPC says that another thread has just closed this channel.
                attempt.decide(is_open=False)
                patience.spend(TryAgainError("the connection was closed under the call; try again"))
            else:
                self._answers = call
                attempt.decide(is_open=True)
                return

    def _requests(
        self, attempt: _Attempt, read: Callable[[], bytes]
    ) -> Iterator[wire.ConnectRequest]:
        yield wire.ConnectRequest(target=_target(self._target))
        # gRPC asks in a thread of its own, which must not outlive a call that never opens; and
        # of what it does then only this attempt may hear, not the one that came after it.
        if not attempt.is_open_within(_OPEN_WITHIN_S):
            return
        try:
            while data := read():
                yield wire.ConnectRequest(data=data)
        except OSError:
            self.close()
            return
        yield wire.ConnectRequest(end=wire.ConnectEnd())

    def __iter__(self) -> Iterator[bytes]:
        """Yield what the target sends, then b"" at its end; stop once both sides have ended.

        Raises:
            AgentctlError: It was cut: what came so far is not all.

        """
        try:
            for answer in self._answers:
                yield answer.data
        except grpc.RpcError as error:
            raise Fault(error, self._connection.link.host).to_error() from None

    def close(self) -> None:
        """Break off, if it has not ended. May be called twice, and in any thread."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()


def _target(target: Target) -> wire.ConnectTarget:
    job_id = target.job_id or 0
    if isinstance(target.place, UnixPlace):
        return wire.ConnectTarget(job_id=job_id, unix_path=target.place.path)
    return wire.ConnectTarget(job_id=job_id, tcp_port=target.place.number)
