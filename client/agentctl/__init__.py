"""Jobs that cannot be lost, from Python.

    from agentctl import Client

    with Client() as client:
        job = client.submit(["python", "train.py"], mem="16G")
        print(client.wait(job.id).exit_code)

Importing this package loads nothing heavy: every name below is loaded at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.api.logs import LogQuery
    from agentctl.api.trouble import LinkBack, LinkLost, Notice, OnNotice
    from agentctl.errors import (
        AgentctlError,
        AgentNotRunningError,
        AmbiguousNameError,
        ApiLevelMismatchError,
        ClientClosedError,
        DiskFullError,
        HostUnreachableError,
        InvalidSpecError,
        JobNotFoundError,
        ResourceExhaustedError,
        TryAgainError,
        WaitTimeoutError,
        WrongAgentError,
        WrongStateError,
    )
    from agentctl.guard import Guard, GuardedJob, GuardNotice, HostMemory, Mark, NoticeKind
    from agentctl.model import (
        AgentInfo,
        Cause,
        Chunk,
        Event,
        Fin,
        Gap,
        GapReason,
        Job,
        JobState,
        LogTime,
        MemAction,
        OutputKind,
    )

__version__ = "0.1.0"

_HOME_OF = {
    "Client": "agentctl.api.client",
    "LogQuery": "agentctl.api.logs",
    **dict.fromkeys(("LinkBack", "LinkLost", "Notice", "OnNotice"), "agentctl.api.trouble"),
    **dict.fromkeys(
        (
            "AgentInfo",
            "Cause",
            "Chunk",
            "Event",
            "Fin",
            "Gap",
            "GapReason",
            "Job",
            "JobState",
            "LogTime",
            "MemAction",
            "OutputKind",
        ),
        "agentctl.model",
    ),
    **dict.fromkeys(
        ("Guard", "GuardNotice", "GuardedJob", "HostMemory", "Mark", "NoticeKind"),
        "agentctl.guard",
    ),
    **dict.fromkeys(
        (
            "AgentNotRunningError",
            "AgentctlError",
            "AmbiguousNameError",
            "ApiLevelMismatchError",
            "ClientClosedError",
            "DiskFullError",
            "HostUnreachableError",
            "InvalidSpecError",
            "JobNotFoundError",
            "ResourceExhaustedError",
            "TryAgainError",
            "WaitTimeoutError",
            "WrongAgentError",
            "WrongStateError",
        ),
        "agentctl.errors",
    ),
}

__all__ = [
    "AgentInfo",
    "AgentNotRunningError",
    "AgentctlError",
    "AmbiguousNameError",
    "ApiLevelMismatchError",
    "Cause",
    "Chunk",
    "Client",
    "ClientClosedError",
    "DiskFullError",
    "Event",
    "Fin",
    "Gap",
    "GapReason",
    "Guard",
    "GuardNotice",
    "GuardedJob",
    "HostMemory",
    "HostUnreachableError",
    "InvalidSpecError",
    "Job",
    "JobNotFoundError",
    "JobState",
    "LinkBack",
    "LinkLost",
    "LogQuery",
    "LogTime",
    "Mark",
    "MemAction",
    "Notice",
    "NoticeKind",
    "OnNotice",
    "OutputKind",
    "ResourceExhaustedError",
    "TryAgainError",
    "WaitTimeoutError",
    "WrongAgentError",
    "WrongStateError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return __all__
