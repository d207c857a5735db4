"""Why a job ended, from what was asked and what happened. Pure.

For shims, so without enums: a cause is the text of a core.job.Cause.
"""

from __future__ import annotations

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


SELF = "self"
USER = "user"
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
    status: Status, stop: tuple[str, str] | None, sent_signals: frozenset[int]
) -> tuple[str, str]:
    """Return who ended the job and one line for people. Pure.

    Args:
        status: How the leader ended.
        stop: Cause and reason of the stop that was under way when it ended, if any.
        sent_signals: Signals that the user had sent to it before.

    """
    if stop is not None:
        return stop
    number = status.signal_number
    if number is not None and number in sent_signals:
        return USER, f"ended by {signal_name(number)} as the user asked"
    return SELF, ""
