"""What is said when a mutation was cut, asked again, and never answered."""

from __future__ import annotations

import shlex

from agentapi.v1.job_service_pb2 import SubmitJobRequest
from agentctl.errors import AgentctlError


def with_unknown_outcome(error: AgentctlError, request: object, host: str) -> AgentctlError:
    """Return `error`, saying also that what was asked for may have been done. Pure.

    Nothing is added for a request that changes nothing. To ask once more by hand is to ask
    under another key, which would do it twice.
    """
    if not hasattr(request, "idempotency_key"):
        return error
    ls = f"agentctl -H {shlex.quote(host)} ls"
    if isinstance(request, SubmitJobRequest):
        text = f"the job may have been started all the same; before you submit it again: {ls}"
    else:
        text = f"it may have been done all the same; look first: {ls}"
    told = type(error)(f"{error}; {text}", reason=error.reason)
    told.asked_before = True
    return told
