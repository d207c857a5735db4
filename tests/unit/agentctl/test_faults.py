"""A failed call in words that can be followed, whichever host it was made to."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from agentctl.api.faults import REASON_TRAILER, Fault
from agentctl.errors import AgentctlError, ApiLevelMismatchError, TryAgainError


class Failed(grpc.RpcError):
    """What gRPC raises: an error that is its call too."""

    def __init__(self, code: grpc.StatusCode, text: str, reason: str) -> None:
        """Fail with this."""
        super().__init__()
        self._code, self._text, self._reason = code, text, reason

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return the text."""
        return self._text

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Return the agent's reason, if it is from the agent."""
        return ((REASON_TRAILER, self._reason),) if self._reason else ()


_CUT = (grpc.StatusCode.UNAVAILABLE, "reset", "")
_OLD = (grpc.StatusCode.UNIMPLEMENTED, "", "")
_FAR = (
    grpc.StatusCode.FAILED_PRECONDITION,
    (
        "too old; run: agentctl host upgrade HOST, or on this machine: "
        "agentctl agent stop && agentctl agent start (jobs go on)"
    ),
    "version-mismatch",
)
_ODD = (grpc.StatusCode.INTERNAL, "internal error (agentctl agent logs)", "internal")


@pytest.mark.parametrize(
    ("failure", "host", "kind", "end"),
    [
        (_CUT, "local", TryAgainError, "or see: agentctl agent logs"),
        (_CUT, "gpu1", TryAgainError, "or see: agentctl -H gpu1 agent logs"),
        (_OLD, "local", ApiLevelMismatchError, "agent stop && agentctl agent start (jobs go on)"),
        (_OLD, "gpu1", ApiLevelMismatchError, "with: agentctl host upgrade gpu1 (jobs go on)"),
        (
            _FAR,
            "local",
            ApiLevelMismatchError,
            "too old; run: agentctl agent stop && agentctl agent start (jobs go on)",
        ),
        (
            _FAR,
            "gpu1",
            ApiLevelMismatchError,
            "too old; run: agentctl host upgrade gpu1 (jobs go on)",
        ),
        (_ODD, "local", AgentctlError, "internal error (agentctl agent logs)"),
        (_ODD, "gpu1", AgentctlError, "internal error (agentctl -H gpu1 agent logs)"),
    ],
)
def test_what_to_do_next_is_for_that_host(
    failure: tuple[grpc.StatusCode, str, str], host: str, kind: type[AgentctlError], end: str
) -> None:
    """Of the client's own words and of the agent's, which does not know how it is called."""
    error = Fault(Failed(*failure), host).to_error()
    assert type(error) is kind
    assert str(error).endswith(end)
