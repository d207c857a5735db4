"""What becomes of a job after the server was away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.core.contract import JobView
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    LeaderHandle,
    Paused,
    ProcessId,
    ResourceUsage,
    Running,
    Starting,
    State,
    Stopping,
)
from agentd.core.recovery import (
    Adopt,
    Decision,
    Discard,
    Facts,
    Finish,
    GiveUpStart,
    Launch,
    Lose,
    Standing,
    Wait,
    decide,
    state_of,
)

ENDED = Ended(5, 9, 4, ExitStatus(0), Cause.SELF, ResourceUsage())
HANDLE = LeaderHandle(5, ProcessId(42, 1000), 41)
VIEW = JobView(7, "running", 5, 42, 1000, 41)

SUBMITTED = Facts(spec=Standing.SOUND, boot_id="this boot")
BEGUN = replace(SUBMITTED, pid=Standing.SOUND, started_in_boot="this boot")
OVER = replace(BEGUN, exit=Standing.SOUND, final=ENDED)

ROWS: dict[str, tuple[Facts, Decision]] = {
    "never completed": (replace(SUBMITTED, spec=Standing.ABSENT), Discard()),
    "complete and never begun": (SUBMITTED, Launch()),
    "begun in this boot and not there any more": (
        BEGUN,
        Lose(Cause.UNKNOWN, "its shim was killed and nobody saw the end"),
    ),
    "begun in another boot": (
        replace(BEGUN, started_in_boot="the boot before"),
        Lose(Cause.REBOOT, "the machine was restarted while the job ran"),
    ),
    "begun in another boot, whoever holds the lock": (
        replace(BEGUN, started_in_boot="the boot before", locked=True),
        Lose(Cause.REBOOT, "the machine was restarted while the job ran"),
    ),
    "its end is on disk": (OVER, Finish(ENDED)),
    "its end is on disk and the warden still minds it": (replace(OVER, view=VIEW), Finish(ENDED)),
    "its end is on disk, whatever the boot": (
        replace(OVER, started_in_boot="the boot before"),
        Finish(ENDED),
    ),
    "the warden minds it": (replace(BEGUN, view=VIEW), Adopt(Running(HANDLE))),
    "the warden minds it and its records are torn": (
        replace(BEGUN, view=VIEW, exit=Standing.CORRUPT, pid=Standing.CORRUPT),
        Adopt(Running(HANDLE)),
    ),
    "its exit record is torn": (
        replace(BEGUN, exit=Standing.CORRUPT),
        Lose(Cause.UNKNOWN, "the exit record was unreadable; it was set aside"),
    ),
    "its pidfile is torn": (
        replace(BEGUN, pid=Standing.CORRUPT),
        Lose(Cause.UNKNOWN, "its pidfile is unreadable"),
    ),
    "somebody holds the lock of a job that was begun": (replace(BEGUN, locked=True), Wait()),
    "who holds the lock cannot be told": (replace(BEGUN, locked=None), Wait()),
    "a shim is just beginning": (replace(SUBMITTED, locked=True), Wait()),
    "the index had it running and its pidfile is empty": (
        replace(SUBMITTED, was_seen_running=True),
        Lose(Cause.UNKNOWN, "its pidfile has vanished and nobody saw the end"),
    ),
    "stopped before it began": (
        replace(SUBMITTED, stop_cause=Cause.USER),
        GiveUpStart(Cause.USER, "stopped before it started"),
    ),
    "a stop changes nothing about a lost job": (
        replace(BEGUN, stop_cause=Cause.USER),
        Lose(Cause.UNKNOWN, "its shim was killed and nobody saw the end"),
    ),
    "never begun, with a spec that cannot be read": (
        replace(SUBMITTED, spec=Standing.CORRUPT),
        GiveUpStart(Cause.UNKNOWN, "its spec.json is unreadable"),
    ),
    "begun, with a spec that cannot be read": (
        replace(BEGUN, spec=Standing.CORRUPT),
        Lose(Cause.UNKNOWN, "its shim was killed and nobody saw the end"),
    ),
    "over, with a spec that is gone": (replace(OVER, spec=Standing.ABSENT), Finish(ENDED)),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_decision(row: tuple[Facts, Decision]) -> None:
    """One row: facts, decision."""
    facts, decision = row

    assert decide(facts) == decision


VIEWS: dict[str, tuple[JobView, State]] = {
    "starting": (JobView(7, "starting"), Starting()),
    "running": (VIEW, Running(HANDLE)),
    "paused": (replace(VIEW, phase="paused"), Paused(HANDLE)),
    "stopping": (
        replace(VIEW, phase="stopping", cause=Cause.TIMEOUT),
        Stopping(HANDLE, Cause.TIMEOUT),
    ),
    "stopping before the start": (
        JobView(7, "stopping", cause=Cause.USER),
        Stopping(None, Cause.USER),
    ),
    "between two shims": (
        replace(VIEW, shim_pid=0),
        Running(LeaderHandle(5, ProcessId(42, 1000), None)),
    ),
    "a phase of a later version": (replace(VIEW, phase="hibernating"), Running(HANDLE)),
}


@pytest.mark.parametrize("row", VIEWS.values(), ids=VIEWS.keys())
def test_the_state_that_a_view_stands_for(row: tuple[JobView, State]) -> None:
    """One row: view, state."""
    view, state = row

    assert state_of(view) == state
