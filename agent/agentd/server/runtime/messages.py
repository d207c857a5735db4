"""What the warden's messages mean to a job's life. Pure but for the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentd.core import contract, lifecycle
from agentd.core.job import Cause, FinalState, LeaderHandle, ProcessId, State
from agentd.system import clock


def _started(message: contract.JobStarted) -> lifecycle.LifeEvent:
    leader = ProcessId(message.leader_pid, message.leader_start_ticks)
    return lifecycle.Started(LeaderHandle(message.started_at_ns, leader, message.shim_pid))


def _gone(message: contract.JobGone) -> lifecycle.LifeEvent:
    cause, reason = Cause.UNKNOWN, "its shim was killed and nobody saw the end"
    if message.rebooted:
        cause, reason = Cause.REBOOT, "the machine was restarted while the job ran"
    return lifecycle.Gone(clock.wall_ns(), cause, reason, message.surviving_pids)


def _refused(message: contract.Refused) -> lifecycle.LifeEvent | None:
    if message.request != contract.Launch.__name__:
        return None
    return lifecycle.LaunchRefused(clock.wall_ns(), message.reason)


# Each translator takes exactly the type it stands under.
_TRANSLATORS: dict[type[contract.Message], Callable[[Any], lifecycle.LifeEvent | None]] = {
    contract.JobStarted: _started,
    contract.JobPaused: lambda _message: lifecycle.PauseSeen(),
    contract.JobResumed: lambda _message: lifecycle.ResumeSeen(),
    contract.JobStopping: lambda message: lifecycle.StopSeen(message.cause),
    contract.ShimReplaced: lambda message: lifecycle.ShimReplaced(message.shim_pid),
    contract.JobGone: _gone,
    contract.Refused: _refused,
}


def event_of(message: contract.Message) -> tuple[int, lifecycle.LifeEvent] | None:
    """Return the job and what happened to it, or None if nothing did."""
    translate = _TRANSLATORS.get(type(message))
    event = None if translate is None else translate(message)
    job_id = getattr(message, "job_id", None)
    return None if event is None or job_id is None else (job_id, event)


def proposed_end(state: State, event: lifecycle.LifeEvent) -> FinalState | None:
    """Return the end that has to be made durable before the event may take effect. Pure.

    Raises:
        InvalidTransitionError: The event is illegal in this state.

    """
    _state, commands = lifecycle.step(state, event)
    for command in commands:
        if isinstance(command, lifecycle.WriteExit):
            return command.final
    return None
