"""One host's connection: made at first use, replaced when it breaks.

Theory of operation. A gRPC channel that lost its peer backs off before it connects again; a
restarted agent would seem away for that time. So a broken channel is dropped, the link finds
(or starts) the agent, and a fresh channel is made. Every call that was cut is made again:
reads change nothing and every mutation carries an idempotency key, so that asking twice is
safe. A stream is opened again from where its reader stands, and only the explicit end that
the agent sends is an end. The patience of 15 s begins anew with every sign of life.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

import grpc

from agentapi.v1.job_service_pb2_grpc import JobServiceStub
from agentctl.api.faults import Fault
from agentctl.errors import AgentctlError, ClientClosedError, TryAgainError, WrongAgentError
from agentctl.link import Link

Request = TypeVar("Request")
Response = TypeVar("Response")

#: What this client speaks; the agent refuses another level.
API_LEVEL = 1
_METADATA = (("agentctl-api-level", str(API_LEVEL)),)

PATIENCE_S = 15.0
#: More than the slowest sane answer: a submit waits for a disk.
CALL_TIMEOUT_S = 60.0
#: Whoever asks once has another way if there is no answer.
_ONCE_TIMEOUT_S = 10.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
#: A stream that stood this long was a sign of life, even if nothing was said on it.
_STOOD_S = 1.0
_MAX_MESSAGE_BYTES = 16 << 20
_CLOSED = "this client was closed; make a new one"

_OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Keepalive alone needs a minute to notice a frozen peer: its answer has a time-out of its own.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A new channel must not share the broken connection of the old one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


def _quoted(path: str) -> str:
    """Return the path as a part of a URI, where percent and space mean something."""
    if path.isascii() and path.replace("/", "").replace("-", "").replace(".", "").isalnum():
        return path
    import urllib.parse

    return urllib.parse.quote(path)


class Line(NamedTuple):
    """One channel and its stub, which takes 0.2 ms to make."""

    channel: grpc.Channel
    jobs: JobServiceStub


class Patience:
    """How long to go on trying, and with what pauses. The time begins with the first failure."""

    def __init__(self, total_s: float = PATIENCE_S) -> None:
        """Give up `total_s` seconds after the first failure since the last sign of life."""
        self._total_s = total_s
        self.renew()

    def renew(self) -> None:
        """Forget the failures so far: there was a sign of life."""
        self._deadline_s: float | None = None
        self._pause_s = 0.0

    @property
    def was_needed(self) -> bool:
        """Whether something has failed since the last sign of life."""
        return self._deadline_s is not None

    @property
    def left_s(self) -> float:
        """Seconds until it ends; never negative."""
        if self._deadline_s is None:
            return self._total_s
        return max(0.0, self._deadline_s - time.monotonic())

    def spend(self, error: AgentctlError) -> None:
        """Pause before the next attempt; raise `error` if the time is over."""
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._total_s
        if self.left_s <= 0:
            raise error
        time.sleep(min(self._pause_s, self.left_s))
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)


class Connection:
    """The channel to one agent. Safe to use from several threads."""

    def __init__(self, link: Link, patience_s: float = PATIENCE_S) -> None:
        """Go through `link`; connects at the first call."""
        self.link = link
        self._patience_s = patience_s
        self._lock = threading.Lock()
        # Apart from the other, so that `close` never waits for a slow start of the agent.
        self._connecting = threading.Lock()
        self._line: Line | None = None
        self._closed = False

    def close(self) -> None:
        """End every call and the connection. May be called twice."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, None
        if line is not None:
            line.channel.close()

    def line(self, patience_s: float) -> Line:
        """Return the channel and its stub, made now if there is none.

        Raises:
            ClientClosedError: The client was closed.
            WrongAgentError: The agent minds another state directory than the link's.
            AgentctlError: As `Link.connect`.

        """
        with self._connecting:
            line = self._current()
            if line is not None:
                return line
            channel = self._open(Patience(patience_s))
            line = Line(channel, JobServiceStub(channel))
            with self._lock:
                if not self._closed:
                    self._line = line
                    return line
        channel.close()
        raise ClientClosedError(_CLOSED)

    def _open(self, patience: Patience) -> grpc.Channel:
        while True:
            path = self.link.connect(patience.left_s)
            channel = grpc.insecure_channel(f"unix:{_quoted(path)}", options=_OPTIONS)
            expected = self.link.doubt(path)
            try:
                if expected is not None:
                    _refuse_another(channel, path, expected)
            except grpc.RpcError as error:
                channel.close()
                fault = Fault(error)
                if self._closed or not fault.is_passing:
                    raise fault.to_error() from None
                patience.spend(fault.to_error())
            except WrongAgentError:
                channel.close()
                raise
            else:
                return channel

    def _current(self) -> Line | None:
        with self._lock:
            if self._closed:
                raise ClientClosedError(_CLOSED)
            return self._line

    def drop(self, line: Line) -> None:
        """Forget a broken channel, unless somebody already replaced it."""
        with self._lock:
            if self._line is not line:
                return
            self._line = None
        line.channel.close()

    def call(
        self,
        method: Callable[[JobServiceStub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """Make one call; made again under the same request while the agent is away.

        Raises:
            AgentctlError: What the agent answered, or that it did not.

        """
        return self._call(lambda line: method(line.jobs), request)

    def call_channel(
        self,
        method: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """Do as `call`, for a method of any service."""
        return self._call(lambda line: method(line.channel), request)

    def _call(
        self,
        method: Callable[[Line], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        patience = Patience(self._patience_s)
        while True:
            line = self.line(patience.left_s)
            try:
                return method(line)(request, timeout=CALL_TIMEOUT_S, metadata=_METADATA)
            except grpc.RpcError as error:
                self._recover(Fault(error), line, patience)
            except ValueError as error:
                # How gRPC says that another thread has just closed this channel.
                self._replaced(line, error, patience)

    def call_once(
        self,
        method: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """Make one call and never again. Raises AgentctlError."""
        try:
            channel = self.line(self._patience_s).channel
            return method(channel)(request, timeout=_ONCE_TIMEOUT_S, metadata=_METADATA)
        except grpc.RpcError as error:
            raise Fault(error).to_error() from None

    def stream(
        self,
        method: Callable[[JobServiceStub], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Callable[[], Request],
        timeout_s: float | None = None,
    ) -> Generator[Response, None, None]:
        """Yield what the agent sends; opened again with `request()` whenever it is cut.

        `request` must return one that begins where the reader stands; it is asked after the
        reader took the last item. The caller ends the iteration at the agent's explicit end.

        Raises:
            TryAgainError: With `timeout_s`, when that time is over.
            AgentctlError: What the agent answered, or that it did not.

        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        patience = Patience(self._patience_s)
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            wait_s = patience.left_s if left_s is None else min(left_s, patience.left_s)
            line = self.line(wait_s)
            opened_s = time.monotonic()
            try:
                call = method(line.jobs)(request(), timeout=left_s, metadata=_METADATA)
                try:
                    for response in call:
                        patience.renew()
                        yield response
                finally:
                    call.cancel()
                    if time.monotonic() - opened_s > _STOOD_S:
                        patience.renew()
                patience.spend(TryAgainError("the agent ended the answer too early; try again"))
            except grpc.RpcError as error:
                self._recover(Fault(error), line, patience)
            except ValueError as error:
                self._replaced(line, error, patience)

    def _recover(self, fault: Fault, line: Line, patience: Patience) -> None:
        if self._closed:
            raise ClientClosedError(_CLOSED) from None
        if not fault.is_passing:
            error = fault.to_error()
            error.asked_before = patience.was_needed
            raise error from None
        if fault.is_cut:
            self.drop(line)
        patience.spend(fault.to_error())

    def _replaced(self, line: Line, error: ValueError, patience: Patience) -> None:
        with self._lock:
            if self._line is line:
                raise error
        patience.spend(TryAgainError("the connection was closed under the call; try again"))


def _refuse_another(channel: grpc.Channel, path: str, state_dir: str) -> None:
    """Raise WrongAgentError unless the agent there minds `state_dir`; else grpc.RpcError."""
    from agentapi.v1.agent_service_pb2 import GetAgentInfoRequest
    from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub

    info = AgentServiceStub(channel).GetAgentInfo(
        GetAgentInfoRequest(), timeout=_ONCE_TIMEOUT_S, metadata=_METADATA
    )
    if os.path.realpath(info.state_dir) != os.path.realpath(state_dir):
        raise WrongAgentError(
            f"the agent at {path} belongs to the state directory {info.state_dir}, "
            f"not to {state_dir}; set AGENTD_RUNTIME_DIR too"
        )
