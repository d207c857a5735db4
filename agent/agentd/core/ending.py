"""Why a job ended, from what was asked and what happened. Pure."""

from __future__ import annotations

import signal

from agentd.core.job import Cause, ExitStatus


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; a real-time or unknown one as "signal 40". Pure."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cause_of_end(
    status: ExitStatus, stop: tuple[Cause, str] | None, sent_signals: frozenset[int]
) -> tuple[Cause, str]:
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
        return Cause.USER, f"ended by {signal_name(number)} as the user asked"
    return Cause.SELF, ""
