"""Jobs for tests of what is shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agentctl.model import Cause, Job, JobState

AT = datetime(2025, 3, 1, 12, 0, 0, 250_000, UTC)


def later(seconds: float) -> datetime:
    """Return that long after `AT`."""
    return AT + timedelta(seconds=seconds)


def sample_job(state: JobState, job_id: int = 7) -> Job:
    """Return a job in `state` with what is true in it."""
    started = state not in {JobState.QUEUED, JobState.STARTING, JobState.START_FAILED}
    live = state in {JobState.RUNNING, JobState.PAUSED, JobState.STOPPING}
    over = state is JobState.ENDED
    cause = {
        JobState.STOPPING: Cause.USER,
        JobState.ENDED: Cause.SELF,
        JobState.START_FAILED: Cause.SELF,
        JobState.LOST: Cause.REBOOT,
    }.get(state)
    return Job(
        id=job_id,
        name="train",
        state=state,
        argv=("python", "train.py", "--name", "two words"),
        cwd="/home/u",
        labels={"project": "vision"},
        submitted_at=AT,
        started_at=later(1) if started else None,
        ended_at=later(126) if over else None,
        exit_code=0 if over else None,
        cause=cause,
        reason="no such file or directory" if state is JobState.START_FAILED else None,
        pid=4711 if live else None,
        shim_pid=4710 if live else None,
        log_bytes=1234,
    )
