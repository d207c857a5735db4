"""A failed call as an exception of our tree: by the agent's reason, else by its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc

from agentctl import errors
from agentctl.link import LOCAL, is_local, on_host

if TYPE_CHECKING:
    from agentctl.errors import AgentctlError

REASON_TRAILER = "agent-reason"

_BY_REASON: dict[str, type[AgentctlError]] = {
    "invalid-spec": errors.InvalidSpecError,
    "job-not-found": errors.JobNotFoundError,
    "wrong-state": errors.WrongStateError,
    "disk-full": errors.DiskFullError,
    "resource-exhausted": errors.ResourceExhaustedError,
    "draining": errors.TryAgainError,
    "warden-gone": errors.TryAgainError,
    "guard-silent": errors.TryAgainError,
    "already-running": errors.RefusedError,
    "unsafe-directory": errors.UnsafeDirectoryError,
    "api-level-mismatch": errors.ApiLevelMismatchError,
    "version-mismatch": errors.ApiLevelMismatchError,
    "port-refused": errors.RefusedError,
}

_BY_CODE: dict[grpc.StatusCode, type[AgentctlError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidSpecError,
    grpc.StatusCode.NOT_FOUND: errors.JobNotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongStateError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: errors.TryAgainError,
    grpc.StatusCode.ABORTED: errors.TryAgainError,
}

#: What a cut connection looks like when the agent did not say so itself.
_CUT_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
)


#: How the agent names commands: it does not know under which name its host is known here.
_AGENT = "agentctl agent "
_UPGRADE = "agentctl host upgrade HOST"
_OR_HERE = ", or on this machine: "


def _for_host(text: str, host: str) -> str:
    """Return the agent's words with the commands in them made out to its host. Pure."""
    before, is_upgrade, rest = text.partition(_UPGRADE + _OR_HERE)
    if is_local(host):
        return before + rest
    if is_upgrade:
        # The other commands are for the agent of this machine.
        _, ending, after = rest.partition(" (")
        return before + _upgrade(host) + ending + after
    return text.replace(_AGENT, on_host(host, "agent "))


def _upgrade(host: str) -> str:
    import shlex

    return f"agentctl host upgrade {shlex.quote(host)}"


class Fault:
    """One failed call, taken apart."""

    def __init__(self, error: grpc.RpcError, host: str = LOCAL) -> None:
        """Read status, reason and text out of what gRPC raised; `host` is the agent's."""
        # Every error of a synchronous call is also its grpc.Call.
        call = cast("grpc.Call", error)
        self._host = host
        self.code = call.code()
        self.text = _for_host(" ".join((call.details() or "").split()), host)
        trailers = dict(call.trailing_metadata() or ())
        reason = trailers.get(REASON_TRAILER, "")
        self.reason = reason if isinstance(reason, str) else reason.decode("ascii", "replace")

    @property
    def is_cut(self) -> bool:
        """Whether the connection broke, rather than the agent answering."""
        if self.reason:
            return self.reason == "draining"
        return self.code in _CUT_CODES

    @property
    def is_passing(self) -> bool:
        """Whether the same call may succeed in a moment."""
        if self.reason == "guard-silent":
            # It took its time already: whoever asked decides whether to ask again.
            return False
        return self.is_cut or self.code is grpc.StatusCode.UNAVAILABLE

    @property
    def is_deadline(self) -> bool:
        """Whether the time given to the call ran out."""
        return self.code is grpc.StatusCode.DEADLINE_EXCEEDED

    def to_error(self) -> AgentctlError:
        """Return the exception for it."""
        known = _BY_REASON.get(self.reason)
        if known is not None:
            return known(self.text, reason=self.reason)
        if self.reason:
            kind = _BY_CODE.get(self.code, errors.AgentctlError)
            return kind(self.text, reason=self.reason)
        return self._without_reason()

    def _without_reason(self) -> AgentctlError:
        if self.code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.ApiLevelMismatchError(
                f"the agent is of a version that cannot do this; {self._renewal} (jobs go on)"
            )
        if self.is_deadline:
            return errors.TryAgainError("the agent did not answer in time; try again")
        if self.is_cut:
            return errors.TryAgainError(
                f"the agent does not answer ({self.text}); try again, or see: "
                f"{on_host(self._host, 'agent logs')}"
            )
        return _BY_CODE.get(self.code, errors.AgentctlError)(self.text)

    @property
    def _renewal(self) -> str:
        if is_local(self._host):
            # The same installation: what runs was there before it was upgraded.
            return "restart it with: agentctl agent stop && agentctl agent start"
        return f"bring it to yours with: {_upgrade(self._host)}"
