"""Who follows a job is told that the guard has paused it."""

from __future__ import annotations

from dataclasses import replace

from agentctl.commands.pauses import PauseTeller
from agentctl.model import Event, JobState
from tests.unit.agentctl.samples import AT, sample_job

WHY = "paused by the guard: 62.8 of 60 MiB"
RUNNING = sample_job(JobState.RUNNING)
PAUSED = replace(sample_job(JobState.PAUSED), reason=WHY)
LINE = f"agentctl: job 7 is {WHY}; agentctl resume 7"


def event(kind: str, detail: str = "") -> Event:
    """Return an event of the job."""
    return Event(1, AT, kind, RUNNING, detail)


def told(*items: Event | object) -> list[str]:
    """Return what is said at the sight of these, in order."""
    said: list[str] = []
    teller = PauseTeller(said.append)
    for item in items:
        teller.see(item)  # type: ignore[arg-type]  # jobs and events
    return said


def test_each_pause_is_told_once() -> None:
    """Seen as an event, as the job's state, and once more after a cut connection."""
    assert told(RUNNING, event("guard.paused", WHY), event("job.paused"), PAUSED, PAUSED) == [LINE]
    assert told(PAUSED, event("job.resumed"), event("guard.paused", WHY)) == [LINE, LINE]
    assert told(PAUSED, event("guard.released"), PAUSED) == [LINE, LINE]


def test_other_words_of_the_guard_are_completed() -> None:
    """The line says who did it in any case."""
    assert told(event("guard.paused", "62.8 of 60 MiB")) == [LINE]


def test_a_pause_of_the_users_own_is_no_news() -> None:
    """Nor is anything else."""
    assert told(sample_job(JobState.PAUSED), event("job.paused"), event("guard.warned", "x")) == []
