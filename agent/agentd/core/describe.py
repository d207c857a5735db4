"""A job's state in words, for one line. Pure."""

from __future__ import annotations

from typing import TypeGuard

from agentd.core.ending import signal_name
from agentd.core.job import Ended, FinalState, Lost, StartFailed, State

_FINAL = (Ended, StartFailed, Lost)


def is_final(state: State) -> TypeGuard[FinalState]:
    """Say whether the job is over. Pure."""
    return isinstance(state, _FINAL)


def describe(state: State) -> str:
    """Return the state in words: "running", "exited 0", "killed by SIGKILL". Pure."""
    match state:
        case Ended():
            return _describe_status(state)
        case StartFailed():
            return f"did not start: {state.reason}"
        case Lost():
            return f"lost: {state.reason}"
        case _:
            return type(state).__name__.lower()


def _describe_status(state: Ended) -> str:
    status = state.status
    if status.signal_number is None:
        return f"exited {status.exit_code}"
    core = " (core dumped)" if status.core_dumped else ""
    return f"killed by {signal_name(status.signal_number)}{core}"
