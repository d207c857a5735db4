"""Why a job ended, from what was asked and what happened. Pure.

For shims, so without enums: a cause is the text of a core.job.Cause.
"""

from __future__ import annotations

from agentd.core.guard.units import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Status(Protocol):
    """How the leader ended; core.job.ExitStatus is one."""

    @property
    def signal_number(self) -> int | None:
        """The signal that ended it, or None."""


#: By what a verdict of the guard ends a job.
_DEADLY = (9, 15)
_KILL = 9

SELF = "self"
USER = "user"
GUARD = "guard"
TIMEOUT = "timeout"
UNKNOWN = "unknown"


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; a real-time or unknown one as "signal 40". Pure."""
    from signal import Signals  # noqa: PLC0415  # brings enum, which no shim is forked with

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def cause_of_end(
    status: Status,
    stop: tuple[str, str] | None,
    sent_signals: frozenset[int],
    verdict: str | None = None,
    kernel: tuple[str, str] | None = None,
) -> tuple[str, str]:
    """Return who ended the job and one line for people. Pure.

    Args:
        status: How the leader ended.
        stop: Cause and reason of the stop that was under way when it ended, if any.
        sent_signals: Signals that the user had sent to it before.
        verdict: Why the guard was about to end it, if it was.
        kernel: Cause and reason if a SIGKILL that nobody sent was the kernel's.

    """
    if stop is not None:
        return stop
    number = status.signal_number
    if verdict is not None and number in _DEADLY:
        return GUARD, verdict
    if number is not None and number in sent_signals:
        return USER, f"ended by {signal_name(number)} as the user asked"
    if kernel is not None and number == _KILL:
        return kernel
    return SELF, ""


def killed_by_kernel(limit_bytes: int | None, maximum_bytes: int | None) -> tuple[str, str]:
    """Return cause and reason of a job that the kernel killed within its own cgroup. Pure.

    Args:
        limit_bytes: The job's limit if that was the reason; None: the host had no memory left.
        maximum_bytes: Where the kernel's own limit of the job lay.

    """
    if limit_bytes is None:
        return GUARD, "stopped by the kernel: the host was out of memory"
    above = "" if maximum_bytes is None else f" (memory.max {size_text(maximum_bytes)})"
    return GUARD, f"stopped by the kernel: over its limit of {size_text(limit_bytes)}{above}"


def killed_by_somebody(host_oom_kills: int) -> tuple[str, str] | None:
    """Return cause and reason of a job killed while the kernel killed so many processes. Pure.

    None: the kernel killed nobody on this host, so it was not the kernel.
    """
    if host_oom_kills <= 0:
        return None
    processes = "1 process" if host_oom_kills == 1 else f"{host_oom_kills} processes"
    reason = (
        "killed by SIGKILL, probably by the kernel's out-of-memory killer: "
        f"it killed {processes} on this host while the job ran"
    )
    return UNKNOWN, reason
