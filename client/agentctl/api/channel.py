"""One host's connection: made at first use, replaced when it breaks.

Theory of operation. A gRPC channel that lost its peer backs off before it connects again; a
restarted agent would seem away for that time. So a broken channel is dropped, the link finds
(or starts) the agent, and a fresh channel is made. Every call that was cut is made again:
reads change nothing and every mutation carries an idempotency key, so that asking twice is
safe. A stream is opened again from where its reader stands, and only the explicit end that
the agent sends is an end. The patience of 15 s begins anew with every sign of life.

Over a network the link breaks far more often than the agent ends. There a frozen peer is found
out in seconds, a stream that has stood once is patient without end, and whoever asked is told
when it lasts: nobody is better served by an error than by the next byte.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

import grpc

from agentapi.v1.job_service_pb2_grpc import JobServiceStub
from agentctl import __version__
from agentctl.api.faults import Fault
from agentctl.api.line import ONCE_TIMEOUT_S, Line, open_channel, refuse_another
from agentctl.api.patience import PATIENCE_S, Patience
from agentctl.errors import (
    AgentctlError,
    ClientClosedError,
    HostUnreachableError,
    TryAgainError,
    WrongAgentError,
)
from agentctl.link import Link

if TYPE_CHECKING:
    from agentctl.api.trouble import OnNotice, Trouble

Request = TypeVar("Request")
Response = TypeVar("Response")

#: What this client speaks; the agent refuses another level.
API_LEVEL = 1
METADATA = (("agentctl-api-level", str(API_LEVEL)), ("agentctl-version", __version__))

#: More than the slowest sane answer: a submit waits for a disk.
CALL_TIMEOUT_S = 60.0
#: A stream that stood this long was a sign of life, even if nothing was said on it.
_STOOD_S = 1.0
_CLOSED = "this client was closed; make a new one"


class Connection:
    """The channel to one agent. Safe to use from several threads."""

    def __init__(
        self, link: Link, patience_s: float = PATIENCE_S, on_notice: OnNotice | None = None
    ) -> None:
        """Go through `link`; connects at the first call.

        `on_notice` is told, in any thread, when a remote host is out of reach for more than
        2 s, and when it is back.
        """
        self.link = link
        self._patience_s = patience_s
        self._lock = threading.Lock()
        # Apart from the other, so that `close` never waits for a slow start of the agent.
        self._connecting = threading.Lock()
        self._line: Line | None = None
        self._closed = False
        #: Whether this agent was ever heard of.
        self._stood = False
        self._trouble = _trouble_of(link, on_notice)

    def close(self) -> None:
        """End every call and the connection. May be called twice."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, None
        if self._trouble is not None:
            self._trouble.drop()
        if line is not None:
            line.channel.close()
        if self.link.is_remote:
            self.link.close()

    @property
    def is_lost(self) -> bool:
        """Whether a remote host that has answered before is out of reach now."""
        return self._trouble is not None and self._trouble.is_on

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
            line = self._open_noting(patience_s)
            with self._lock:
                if not self._closed:
                    self._line = line
                    return line
        line.channel.close()
        raise ClientClosedError(_CLOSED)

    def _open_noting(self, patience_s: float) -> Line:
        """Open a line, and note for a remote host whether it failed."""
        if self._trouble is None:
            return self._open(Patience(patience_s))
        from agentctl.api.wake import WAKE_WATCH

        try:
            line = self._open(Patience(patience_s))
        except TryAgainError as error:
            self._lost(str(error))
            raise
        self._trouble.end()
        WAKE_WATCH.add(self)
        return line

    def _open(self, patience: Patience) -> Line:
        while True:
            path = self.link.connect(patience.left_s)
            channel = open_channel(path, is_remote=self.link.is_remote)
            expected = self.link.doubt(path)
            try:
                # After a loss only an answer proves that the host is back.
                if expected is not None or self.is_lost:
                    refuse_another(channel, path, expected, METADATA)
            except grpc.RpcError as error:
                channel.close()
                self.link.broken(path)
                fault = Fault(error, self.link.host)
                if self._closed or not fault.is_passing:
                    raise fault.to_error() from None
                patience.spend(fault.to_error())
            except WrongAgentError:
                channel.close()
                raise
            else:
                return Line(channel, JobServiceStub(channel), path)

    def _current(self) -> Line | None:
        with self._lock:
            if self._closed:
                raise ClientClosedError(_CLOSED)
            return self._line

    def drop(self, line: Line, why: AgentctlError | None = None) -> None:
        """Forget a channel, unless somebody already replaced it; `why`: its link is broken."""
        with self._lock:
            if self._line is not line:
                return
            self._line = None
            if why is not None:
                # Before anybody can ask the link again.
                self.link.broken(line.path)
                self._lost(str(why))
        line.channel.close()

    def woke(self) -> None:
        """Distrust the channel: this machine has slept, and what it led to may be gone."""
        with self._lock:
            line = self._line
        if line is not None:
            self.drop(line, TryAgainError("this machine was asleep"))

    def _lost(self, why: str) -> None:
        if self._trouble is not None and self._stood and not self._closed:
            self._trouble.begin(why)

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
        unknown = False
        while True:
            try:
                line = self._line_for(patience)
                if line is None:
                    continue
                try:
                    answer = method(line)(request, timeout=CALL_TIMEOUT_S, metadata=METADATA)
                except grpc.RpcError as error:
                    fault = Fault(error, self.link.host)
                    unknown = unknown or not fault.reason
                    self._recover(fault, line, patience)
                except ValueError as error:
                    # How gRPC says that another thread has just closed this channel.
                    self._replaced(line, error, patience)
                else:
                    self._stood = True
                    return answer
            except (TryAgainError, HostUnreachableError) as error:
                if not (unknown and self.link.is_remote):
                    raise
                from agentctl.api.outcome import with_unknown_outcome

                raise with_unknown_outcome(error, request, self.link.host) from None

    def call_once(
        self,
        method: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """Make one call and never again. Raises AgentctlError."""
        try:
            channel = self.line(self._patience_s).channel
            return method(channel)(request, timeout=ONCE_TIMEOUT_S, metadata=METADATA)
        except grpc.RpcError as error:
            raise Fault(error, self.link.host).to_error() from None

    def stream(
        self,
        method: Callable[[JobServiceStub], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Callable[[], Request],
        timeout_s: float | None = None,
        *,
        endless: bool = True,
    ) -> Generator[Response, None, None]:
        """Yield what the agent sends; opened again with `request()` whenever it is cut.

        `request` must return one that begins where the reader stands; it is asked after the
        reader took the last item. The caller ends the iteration at the agent's explicit end.
        With `endless` a lost link to a remote host that has answered before is waited for
        without end; anything else only as long as a call would be.

        Raises:
            TryAgainError: With `timeout_s`, when that time is over.
            AgentctlError: What the agent answered, or that it did not.

        """
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        patience = Patience(self._patience_s)
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            line = self._line_for(patience, deadline_s if endless else None, most_s=left_s)
            if line is None:
                continue
            opened_s = time.monotonic()
            left_s = max(0.0, deadline_s - opened_s)
            try:
                call = method(line.jobs)(
                    request(),
                    timeout=None if left_s == math.inf else left_s,
                    metadata=METADATA,
                )
                try:
                    for response in call:
                        self._stood = True
                        patience.renew()
                        yield response
                finally:
                    call.cancel()
                    if time.monotonic() - opened_s > _STOOD_S:
                        patience.renew()
                patience.spend(TryAgainError("the agent ended the answer too early; try again"))
            except grpc.RpcError as error:
                self._recover(
                    Fault(error, self.link.host), line, patience, deadline_s if endless else None
                )
            except ValueError as error:
                self._replaced(line, error, patience, deadline_s if endless else None)

    def _line_for(
        self, patience: Patience, until_s: float | None = None, *, most_s: float = math.inf
    ) -> Line | None:
        """Return the line, or None after a pause in which a lost link may have healed."""
        waits = self._waits_for_ever(until_s)
        wait_s = min(self._patience_s if waits else patience.left_s, most_s)
        if not self.link.is_remote:
            return self.line(wait_s)
        try:
            return self.line(wait_s)
        except TryAgainError as error:
            self._endure(error, patience, until_s)
            return None

    def _waits_for_ever(self, until_s: float | None) -> bool:
        return until_s is not None and self._stood and self.link.is_remote

    def _endure(self, error: AgentctlError, patience: Patience, until_s: float | None) -> None:
        """Pause before the next attempt; raise `error` if there is to be none."""
        if until_s is None or not self._waits_for_ever(until_s):
            patience.spend(error)
            return
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise error
        patience.linger(left_s)

    def _recover(
        self, fault: Fault, line: Line, patience: Patience, until_s: float | None = None
    ) -> None:
        if self._closed:
            raise ClientClosedError(_CLOSED) from None
        error = fault.to_error()
        if not fault.is_passing:
            error.asked_before = patience.was_needed
            raise error from None
        if not fault.is_cut:
            patience.spend(error)
        elif fault.reason:
            # The agent itself said it: nothing is wrong with the way to it.
            self.drop(line)
            patience.spend(error)
        else:
            self.drop(line, TryAgainError("the link was lost"))
            self._endure(error, patience, until_s)

    def _replaced(
        self, line: Line, error: ValueError, patience: Patience, until_s: float | None = None
    ) -> None:
        with self._lock:
            if self._line is line:
                raise error
        closed = TryAgainError("the connection was closed under the call; try again")
        self._endure(closed, patience, until_s)


def _trouble_of(link: Link, on_notice: OnNotice | None) -> Trouble | None:
    """Return where the loss of a remote link is noted; None for this machine."""
    if not link.is_remote:
        return None
    from agentctl.api.trouble import Trouble

    return Trouble(link.host, on_notice)
