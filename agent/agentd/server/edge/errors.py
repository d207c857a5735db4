"""Which gRPC status an error becomes. The reason travels beside it, as a trailer."""

from __future__ import annotations

from types import MappingProxyType

import grpc

from agentd.errors import AgentError

#: Trailing metadata by which the client tells errors apart; never by text.
REASON_KEY = "agent-reason"
#: HTTP/2 headers are limited (8 KiB by default in gRPC): a message beyond this is cut.
_LONGEST_MESSAGE = 2000

#: By gRPC's own test: the call may simply be made again: UNAVAILABLE; something must be changed
#: first: FAILED_PRECONDITION; nothing the caller can do: INTERNAL.
STATUS_CODES = MappingProxyType(
    {
        "internal": grpc.StatusCode.INTERNAL,
        "invalid-spec": grpc.StatusCode.INVALID_ARGUMENT,
        "job-not-found": grpc.StatusCode.NOT_FOUND,
        "wrong-state": grpc.StatusCode.FAILED_PRECONDITION,
        "api-level-mismatch": grpc.StatusCode.FAILED_PRECONDITION,
        "version-mismatch": grpc.StatusCode.FAILED_PRECONDITION,
        "port-refused": grpc.StatusCode.FAILED_PRECONDITION,
        "disk-full": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "resource-exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "draining": grpc.StatusCode.UNAVAILABLE,
        "warden-gone": grpc.StatusCode.UNAVAILABLE,
        "guard-silent": grpc.StatusCode.UNAVAILABLE,
        "already-running": grpc.StatusCode.ALREADY_EXISTS,
        "unsafe-directory": grpc.StatusCode.FAILED_PRECONDITION,
        "system-call": grpc.StatusCode.INTERNAL,
        "record-corrupt": grpc.StatusCode.INTERNAL,
        "store-corrupt": grpc.StatusCode.INTERNAL,
    }
)


def status_code(error: AgentError) -> grpc.StatusCode:
    """Return the status of an error; a reason that is not in the table is our own slip. Pure."""
    return STATUS_CODES.get(error.reason, grpc.StatusCode.INTERNAL)


def trailer(error: AgentError) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata that carries the reason. Pure."""
    return ((REASON_KEY, error.reason),)


def message(error: AgentError) -> str:
    """Return the error's line as the wire can carry it: valid UTF-8, not too long. Pure."""
    return wire_text(str(error))[:_LONGEST_MESSAGE]


def wire_text(text: str) -> str:
    r"""Return `text` with what is no UTF-8 (a path's odd byte) as ``\udcff``. Pure."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
