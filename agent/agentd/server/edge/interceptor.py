"""What every RPC has in common: admission, errors, and one canonical line in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from grpc.aio import AbortError, ServerInterceptor, ServicerContext

from agentd import __version__
from agentd.core.wire import API_LEVEL, window_complaint
from agentd.errors import (
    AgentError,
    ApiLevelMismatchError,
    DrainingError,
    VersionMismatchError,
)
from agentd.server.edge import errors

#: Metadata by which a client says which level of the wire it speaks.
API_LEVEL_KEY = "agentctl-api-level"
#: Metadata by which a client says its version: one minor version apart is understood.
VERSION_KEY = "agentctl-version"

#: RPCs that change something: worth a line each. Reads are many, and are debug.
_MUTATIONS = frozenset(
    {"SubmitJob", "StopJob", "SignalJob", "PauseJob", "ResumeJob", "RemoveJob", "StopAgent"}
)
#: Who asks for the version, or ends an agent to bring another, must not be refused for his own.
_ANY_VERSION = frozenset({"GetAgentInfo", "StopAgent"})
_DRAINING = "the agent is stopping; try again in a moment"
_NO_DETAIL = "internal error; the agent's log says more (agentctl agent logs)"

_log = structlog.get_logger()

# One interceptor serves every method, so requests and responses are opaque to it.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "ServicerContext[Any, Any]"


class Gate:
    """Open until the server drains. Shared by every RPC."""

    def __init__(self) -> None:
        """Opens it."""
        self.draining = False
        self._followers: set[asyncio.Task[object]] = set()

    def close(self) -> None:
        """Let no call in any more, and end the streams that would go on for ever."""
        self.draining = True
        for task in tuple(self._followers):
            task.cancel()

    @contextmanager
    def following(self, *, endless: bool) -> Iterator[None]:
        """Within it, the current call is a stream; `close` ends one that is endless."""
        task = asyncio.current_task()
        if task is None or not endless:
            yield
            return
        self._followers.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self.draining:
                raise
            # Ours, not the client's: the client is told why.
            task.uncancel()
            raise DrainingError(_DRAINING) from None
        finally:
            self._followers.discard(task)

    def admit(self, name: str, context: _Context) -> None:
        """Let the call of the method `name` in.

        Raises:
            DrainingError: The agent is stopping.
            ApiLevelMismatchError: The client speaks another level.
            VersionMismatchError: It is of a version too far from this agent's.

        """
        if self.draining:
            raise DrainingError(_DRAINING)
        for key, value in context.invocation_metadata() or ():
            if key == API_LEVEL_KEY and value != str(API_LEVEL):
                raise ApiLevelMismatchError(
                    f"the client speaks API level {_text(value)}, this agent (version "
                    f"{__version__}) level {API_LEVEL}; install the same version on both sides"
                )
            if key == VERSION_KEY and name not in _ANY_VERSION:
                complaint = window_complaint(_text(value), __version__)
                if complaint:
                    raise VersionMismatchError(complaint)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class EdgeInterceptor(ServerInterceptor):
    """Turns every AgentError into status and reason, for unary and streaming methods alike."""

    def __init__(self, gate: Gate) -> None:
        """Serves any number of server objects."""
        self._gate = gate
        # Wrapping costs more than the rest of a call's way through here.
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        # An unknown method has none: grpc answers UNIMPLEMENTED.
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, path: str, handler: _Handler) -> _Handler:
        name = path.rpartition("/")[2]
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._both_ways(name, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(name, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(name, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, name: str, behaviour: Any) -> Any:  # noqa: ANN401  # opaque, see _Handler
        async def call(request: Any, context: _Context) -> Any:  # noqa: ANN401  # same
            line = _Line(name, request)
            try:
                self._gate.admit(name, context)
                response = await behaviour(request, context)
            except BaseException as error:  # noqa: BLE001  # `_end_badly` raises it or its status
                await _end_badly(line, error, context)
            line.write("OK", response)
            return response

        return call

    def _streaming(self, name: str, behaviour: Any) -> Any:  # noqa: ANN401  # opaque, see _Handler
        async def call(request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: ANN401  # same
            line = _Line(name, request)
            try:
                self._gate.admit(name, context)
                with self._gate.following(endless=getattr(request, "follow", False)):
                    async with aclosing(behaviour(request, context)) as items:
                        async for item in items:
                            yield item
            except GeneratorExit:
                line.write("CANCELLED")
                raise
            except BaseException as error:  # noqa: BLE001  # `_end_badly` raises it or its status
                await _end_badly(line, error, context)
            line.write("OK")

        return call

    def _both_ways(self, name: str, behaviour: Any) -> Any:  # noqa: ANN401  # opaque, see _Handler
        async def call(requests: Any, context: _Context) -> None:  # noqa: ANN401  # same
            line = _Line(name, None)
            try:
                self._gate.admit(name, context)
                # It lasts as long as two others like it to.
                with self._gate.following(endless=True):
                    await behaviour(requests, context)
            except BaseException as error:  # noqa: BLE001  # `_end_badly` raises it or its status
                await _end_badly(line, error, context)
            line.write("OK")

        return call


class _Line:
    """The canonical line of one RPC."""

    __slots__ = ("_job_id", "_name", "_started_s")

    def __init__(self, name: str, request: Any) -> None:  # noqa: ANN401  # any message
        self._name = name
        self._started_s = time.perf_counter()
        self._job_id = getattr(request, "job_id", None)

    def write(self, code: str, response: Any = None, **more: str) -> None:  # noqa: ANN401  # any message
        quiet = code in {"OK", "CANCELLED"} and self._name not in _MUTATIONS
        say = _log.debug if quiet else _log.info
        if self._job_id is None and self._name == "SubmitJob" and response is not None:
            self._job_id = response.job.id
        if self._job_id is not None:
            more["job_id"] = self._job_id
        duration_s = round(time.perf_counter() - self._started_s, 6)
        say("rpc.ended", method=self._name, code=code, duration_s=duration_s, **more)


async def _end_badly(line: _Line, error: BaseException, context: _Context) -> NoReturn:
    """Tell log and client; always raises."""
    if isinstance(error, AbortError):
        line.write("ABORTED")
        raise error
    if isinstance(error, AgentError):
        code, text, trailer = (
            errors.status_code(error),
            errors.message(error),
            errors.trailer(error),
        )
        line.write(code.name, reason=error.reason, error=text)
        await context.abort(code, text, trailer)
    if isinstance(error, Exception):
        _log.error("rpc.crashed", exc_info=error)
        line.write("UNKNOWN")
        await context.abort(grpc.StatusCode.UNKNOWN, _NO_DETAIL)
    line.write("CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN")
    raise error
