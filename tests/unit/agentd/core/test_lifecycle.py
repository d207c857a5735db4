"""The life of a job: every pair of state and event."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from agentd.core import lifecycle
from agentd.core.describe import describe, is_final
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FinalState,
    LeaderHandle,
    Lost,
    Paused,
    ProcessId,
    Queued,
    ResourceUsage,
    Running,
    StartFailed,
    Starting,
    State,
    Stopping,
)
from agentd.core.lifecycle import (
    IGNORED,
    ILLEGAL,
    TRANSITIONS,
    Adopted,
    AskLaunch,
    AskPause,
    AskResume,
    AskSignal,
    AskStop,
    Command,
    Gone,
    InvalidTransitionError,
    LaunchRefused,
    LaunchRequested,
    LifeEvent,
    PauseRequested,
    PauseSeen,
    Recorded,
    ResumeRequested,
    ResumeSeen,
    Retire,
    ShimReplaced,
    SignalRequested,
    Started,
    StopRequested,
    StopSeen,
    WriteExit,
    step,
)

DRAW = Path(__file__).resolve().parents[4] / "docs" / "lifecycle.py"

HANDLE = LeaderHandle(5, ProcessId(42, 1000), 41)
RESCUED = LeaderHandle(5, ProcessId(42, 1000), 77)
ENDED = Ended(5, 9, 4, ExitStatus(7 << 8), Cause.SELF, ResourceUsage())
FAILED = StartFailed(9, Cause.SELF, "no such file", 2, "/bin/nothing")
LOST = Lost(9, Cause.UNKNOWN, "nobody saw the end", 5)

STATES: tuple[State, ...] = (
    Queued(),
    Starting(),
    Running(HANDLE),
    Paused(HANDLE),
    Stopping(HANDLE, Cause.USER),
    Stopping(None, Cause.USER),
    ENDED,
    FAILED,
    LOST,
)
EVENTS: tuple[LifeEvent, ...] = (
    LaunchRequested(),
    StopRequested(9, 3.0, Cause.USER),
    SignalRequested(10),
    PauseRequested(),
    ResumeRequested(),
    LaunchRefused(9, "no more processes"),
    Started(HANDLE),
    PauseSeen(),
    ResumeSeen(),
    StopSeen(Cause.TIMEOUT),
    ShimReplaced(77),
    Recorded(ENDED),
    Gone(9, Cause.REBOOT, "the machine was restarted", (42,)),
    Adopted(Running(HANDLE)),
)
ALL_PAIRS = set(product(get_args(State), get_args(LifeEvent)))


def _name(value: object) -> str:
    return type(value).__name__


def test_every_pair_is_listed_exactly_once() -> None:
    """Transition, ignored or illegal: one of the three for each state and event."""
    listed = [*TRANSITIONS, *IGNORED, *ILLEGAL]

    assert len(listed) == len(set(listed))
    assert set(listed) == ALL_PAIRS


def test_samples_cover_every_state_and_every_event() -> None:
    """The tests below walk all there is."""
    assert {type(state) for state in STATES} == set(get_args(State))
    assert {type(event) for event in EVENTS} == set(get_args(LifeEvent))


@pytest.mark.parametrize("event", EVENTS, ids=_name)
@pytest.mark.parametrize("state", STATES, ids=describe)
def test_a_pair_does_what_the_table_says(state: State, event: LifeEvent) -> None:
    """A transition leads to a declared target, an ignored pair nowhere, an illegal one raises."""
    pair = (type(state), type(event))
    if pair in ILLEGAL:
        with pytest.raises(InvalidTransitionError, match=type(event).__name__):
            step(state, event)
        return

    after, commands = step(state, event)

    if pair in IGNORED:
        assert (after, commands) == (state, ())
    else:
        assert type(after) in TRANSITIONS[pair].targets


@pytest.mark.parametrize("final", get_args(FinalState), ids=lambda kind: kind.__name__)
def test_a_final_state_has_no_way_out(final: type[FinalState]) -> None:
    """No transition begins in it, whatever happens."""
    assert [pair for pair in TRANSITIONS if pair[0] is final] == []


@pytest.mark.parametrize("state", STATES, ids=describe)
def test_every_way_into_an_end_retires_the_job(state: State) -> None:
    """The last command is Retire, and an end that is not on disk is written first."""
    for event in EVENTS:
        if (type(state), type(event)) not in TRANSITIONS:
            continue
        after, commands = step(state, event)
        if not is_final(after):
            assert Retire() not in commands
        elif isinstance(event, Recorded):
            assert commands == (Retire(),)
        else:
            assert commands == (WriteExit(after), Retire())


def test_a_recorded_end_that_arrives_twice_is_ignored() -> None:
    """The first one stays, even if the second says something else."""
    assert step(ENDED, Recorded(LOST)) == (ENDED, ())


WAYS: dict[str, tuple[State, LifeEvent, State, tuple[Command, ...]]] = {
    "a queued job is launched": (Queued(), LaunchRequested(), Starting(), (AskLaunch(),)),
    "a launch asked again is passed on again": (
        Starting(),
        LaunchRequested(),
        Starting(),
        (AskLaunch(),),
    ),
    "a queued job that is stopped never starts": (
        Queued(),
        StopRequested(9, 3.0, Cause.USER),
        StartFailed(9, Cause.USER, "stopped before it started"),
        (WriteExit(StartFailed(9, Cause.USER, "stopped before it started")), Retire()),
    ),
    "a starting job is stopped without a handle": (
        Starting(),
        StopRequested(9, 3.0, Cause.USER),
        Stopping(None, Cause.USER),
        (AskStop(3.0, Cause.USER),),
    ),
    "a running job is stopped": (
        Running(HANDLE),
        StopRequested(9, 3.0, Cause.GUARD),
        Stopping(HANDLE, Cause.GUARD),
        (AskStop(3.0, Cause.GUARD),),
    ),
    "a paused job is stopped": (
        Paused(HANDLE),
        StopRequested(9, 3.0, Cause.USER),
        Stopping(HANDLE, Cause.USER),
        (AskStop(3.0, Cause.USER),),
    ),
    "a shorter stop is passed on, the cause stays": (
        Stopping(HANDLE, Cause.TIMEOUT),
        StopRequested(9, 0.0, Cause.USER),
        Stopping(HANDLE, Cause.TIMEOUT),
        (AskStop(0.0, Cause.USER),),
    ),
    "the leader of a stopping job appears": (
        Stopping(None, Cause.USER),
        Started(HANDLE),
        Stopping(HANDLE, Cause.USER),
        (),
    ),
    "a job starts": (Starting(), Started(HANDLE), Running(HANDLE), ()),
    "a pause waits for the shim": (
        Running(HANDLE),
        PauseRequested(),
        Running(HANDLE),
        (AskPause(),),
    ),
    "a pause is seen": (Running(HANDLE), PauseSeen(), Paused(HANDLE), ()),
    "a resume waits for the shim": (
        Paused(HANDLE),
        ResumeRequested(),
        Paused(HANDLE),
        (AskResume(),),
    ),
    "a resume is seen": (Paused(HANDLE), ResumeSeen(), Running(HANDLE), ()),
    "a resume that crosses a pause is passed on": (
        Running(HANDLE),
        ResumeRequested(),
        Running(HANDLE),
        (AskResume(),),
    ),
    "a signal is passed on while stopping": (
        Stopping(HANDLE, Cause.USER),
        SignalRequested(9),
        Stopping(HANDLE, Cause.USER),
        (AskSignal(9),),
    ),
    "a timeout stops a job by itself": (
        Running(HANDLE),
        StopSeen(Cause.TIMEOUT),
        Stopping(HANDLE, Cause.TIMEOUT),
        (),
    ),
    "the shim's cause of a stop counts": (
        Stopping(HANDLE, Cause.USER),
        StopSeen(Cause.TIMEOUT),
        Stopping(HANDLE, Cause.TIMEOUT),
        (),
    ),
    "a rescue shim takes over": (Running(HANDLE), ShimReplaced(77), Running(RESCUED), ()),
    "a rescue shim takes over a stop": (
        Stopping(HANDLE, Cause.USER),
        ShimReplaced(77),
        Stopping(RESCUED, Cause.USER),
        (),
    ),
    "a job ends while it is paused": (Paused(HANDLE), Recorded(ENDED), ENDED, (Retire(),)),
    "a start fails": (Starting(), Recorded(FAILED), FAILED, (Retire(),)),
    "a refused launch is a failed start": (
        Starting(),
        LaunchRefused(9, "no more processes"),
        StartFailed(9, Cause.UNKNOWN, "no more processes"),
        (WriteExit(StartFailed(9, Cause.UNKNOWN, "no more processes")), Retire()),
    ),
    "a refused launch of a stopped job is the stop's": (
        Stopping(None, Cause.USER),
        LaunchRefused(9, "no more processes"),
        StartFailed(9, Cause.USER, "stopped before it started"),
        (WriteExit(StartFailed(9, Cause.USER, "stopped before it started")), Retire()),
    ),
    "a launch refused because it runs changes nothing": (
        Stopping(HANDLE, Cause.USER),
        LaunchRefused(9, "it runs"),
        Stopping(HANDLE, Cause.USER),
        (),
    ),
    "a job that is gone keeps its start": (
        Stopping(HANDLE, Cause.USER),
        Gone(9, Cause.UNKNOWN, "nobody saw", (42, 43)),
        Lost(9, Cause.UNKNOWN, "nobody saw", 5, (42, 43)),
        (WriteExit(Lost(9, Cause.UNKNOWN, "nobody saw", 5, (42, 43))), Retire()),
    ),
    "a job that is gone before its start has none": (
        Starting(),
        Gone(9, Cause.REBOOT, "restarted"),
        Lost(9, Cause.REBOOT, "restarted", None),
        (WriteExit(Lost(9, Cause.REBOOT, "restarted", None)), Retire()),
    ),
    "an adopted job is as its shim says": (Starting(), Adopted(Paused(HANDLE)), Paused(HANDLE), ()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_way(way: tuple[State, LifeEvent, State, tuple[Command, ...]]) -> None:
    """One row: state, event, next state, commands."""
    before, event, after, commands = way

    assert step(before, event) == (after, commands)


@pytest.mark.parametrize("request_", [PauseRequested(), ResumeRequested()], ids=_name)
def test_a_stopping_job_can_neither_be_paused_nor_resumed(request_: LifeEvent) -> None:
    """It is on its way out."""
    with pytest.raises(InvalidTransitionError, match="stopping"):
        step(Stopping(HANDLE, Cause.USER), request_)


DESCRIPTIONS = [
    (Queued(), "queued"),
    (Running(HANDLE), "running"),
    (ENDED, "exited 7"),
    (Ended(5, 9, 4, ExitStatus(9), Cause.USER, ResourceUsage()), "killed by SIGKILL"),
    (
        Ended(5, 9, 4, ExitStatus(11 | 0x80), Cause.SELF, ResourceUsage()),
        "killed by SIGSEGV (core dumped)",
    ),
    (FAILED, "did not start: no such file"),
    (LOST, "lost: nobody saw the end"),
]


@pytest.mark.parametrize(("state", "words"), DESCRIPTIONS, ids=[w for _, w in DESCRIPTIONS])
def test_a_state_in_words(state: State, words: str) -> None:
    """One line for people."""
    assert describe(state) == words


def test_the_diagram_has_an_arrow_for_each_change_of_state() -> None:
    """Drawn from the table: begin, every change, every end."""
    drawn = lifecycle.render_mermaid()

    assert drawn.startswith("stateDiagram-v2\n    [*] --> queued\n")
    assert "    running --> paused: PauseSeen\n" in drawn
    assert "    queued --> start_failed: StopRequested, LaunchRefused, Recorded\n" in drawn
    assert drawn.endswith("    ended --> [*]\n    start_failed --> [*]\n    lost --> [*]\n")


def test_the_page_in_the_documentation_is_fresh() -> None:
    """docs/lifecycle.md is what docs/lifecycle.py draws."""
    checked = subprocess.run([sys.executable, str(DRAW), "--check"], check=False)

    assert checked.returncode == 0, "run: python docs/lifecycle.py"
