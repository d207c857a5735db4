"""The life of a job: every state, every event, and what follows.

Theory of operation
===================

A job has one state (`agentd.core.job`). Whatever happens to it is an event: a request of
the user (`…Requested`), something its shim or the warden reports (`…Seen`, `Started`,
`ShimReplaced`, `LaunchRefused`, `Gone`), an exit record found on disk (`Recorded`), or
what a warden that lives on says it minds (`Adopted`). `step` looks the pair (type of state,
type of event) up in one literal table and returns the next state and the commands that the
caller has to carry out. Nothing else in the program changes a job's state.

Rules:

1. Every pair is listed: as a transition, as ignored, or as illegal. A test walks them all.
2. Reports are ignored where they come late or twice; requests are illegal where they make
   no sense. An illegal event raises and leaves the state alone.
3. A final state has no way out. A recorded end that arrives twice is ignored.
4. Requests do not change what only a shim can know: pause and resume leave the state until
   the shim confirms. A stop does change it, because from then on the end has a cause.
5. Where the end is not yet on disk, the command `WriteExit` comes with the transition, and
   the caller carries it out *before* the new state is shown to anybody: files are the truth.
   `Retire` follows after the end is indexed.
6. There is no clock here: times come in on the events.

The diagram in the documentation is drawn from the table (`render_mermaid`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from agentd.core.describe import describe
from agentd.core.job import (
    ActiveState,
    Cause,
    Ended,
    FinalState,
    LeaderHandle,
    Lost,
    Paused,
    Queued,
    Running,
    StartFailed,
    Starting,
    State,
    Stopping,
)
from agentd.errors import WrongStateError

STOPPED_EARLY = "stopped before it started"


class InvalidTransitionError(WrongStateError):
    """The job's state does not allow this event; nothing was changed."""


@dataclass(frozen=True, slots=True)
class LaunchRequested:
    """Its turn has come."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants it stopped: TERM to the whole tree, `grace_s` later KILL."""

    at_ns: int
    grace_s: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class SignalRequested:
    """The user wants this signal sent."""

    signal_number: int


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """The user wants the whole tree stopped (SIGSTOP)."""


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """The user wants it to go on (SIGCONT)."""


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """The warden could not launch it."""

    at_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Started:
    """The leader was executed."""

    handle: LeaderHandle


@dataclass(frozen=True, slots=True)
class PauseSeen:
    """The shim has stopped the whole tree."""


@dataclass(frozen=True, slots=True)
class ResumeSeen:
    """The shim has let it go on."""


@dataclass(frozen=True, slots=True)
class StopSeen:
    """The shim has begun the stop ladder."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class ShimReplaced:
    """A rescue shim minds the job."""

    shim_pid: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """The end stands on disk."""

    final: FinalState


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody will ever know the end."""

    at_ns: int
    cause: Cause
    reason: str
    surviving_pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Adopted:
    """The warden minds the job and says how it is."""

    state: ActiveState


LifeEvent = (
    LaunchRequested
    | StopRequested
    | SignalRequested
    | PauseRequested
    | ResumeRequested
    | LaunchRefused
    | Started
    | PauseSeen
    | ResumeSeen
    | StopSeen
    | ShimReplaced
    | Recorded
    | Gone
    | Adopted
)


@dataclass(frozen=True, slots=True)
class AskLaunch:
    """Have the warden launch it."""


@dataclass(frozen=True, slots=True)
class AskStop:
    """Have the shim begin the stop ladder, or shorten the one under way."""

    grace_s: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class AskSignal:
    """Have the shim send a signal."""

    signal_number: int


@dataclass(frozen=True, slots=True)
class AskPause:
    """Have the shim stop the whole tree."""


@dataclass(frozen=True, slots=True)
class AskResume:
    """Have the shim let it go on."""


@dataclass(frozen=True, slots=True)
class WriteExit:
    """Make this end durable, before the new state is shown to anybody."""

    final: FinalState


@dataclass(frozen=True, slots=True)
class Retire:
    """Once the end is indexed: recovery need not look at this job again."""


Command = AskLaunch | AskStop | AskSignal | AskPause | AskResume | WriteExit | Retire
Step = tuple[State, tuple[Command, ...]]


@dataclass(frozen=True, slots=True)
class Move:
    """An entry of the table: what is done, and which types of state it can lead to."""

    # Each handler takes exactly the pair of types it stands under; the table is what says so.
    handler: Callable[[Any, Any], Step]
    targets: tuple[type[State], ...]


def _move(handler: Callable[[Any, Any], Step], *targets: type[State]) -> Move:
    return Move(handler, targets)


def _launch(_state: Queued, _event: LaunchRequested) -> Step:
    return Starting(), (AskLaunch(),)


def _launch_again(state: Starting, _event: LaunchRequested) -> Step:
    return state, (AskLaunch(),)


def _end_unstarted(_state: Queued, event: StopRequested) -> Step:
    final = StartFailed(event.at_ns, event.cause, STOPPED_EARLY)
    return final, (WriteExit(final), Retire())


def _stop_starting(_state: Starting, event: StopRequested) -> Step:
    return Stopping(None, event.cause), (AskStop(event.grace_s, event.cause),)


def _stop(state: Running | Paused, event: StopRequested) -> Step:
    return Stopping(state.handle, event.cause), (AskStop(event.grace_s, event.cause),)


def _hasten_stop(state: Stopping, event: StopRequested) -> Step:
    # Only the shim knows the deadline; it takes the earlier one.
    return state, (AskStop(event.grace_s, event.cause),)


def _signal(state: Running | Paused | Stopping, event: SignalRequested) -> Step:
    return state, (AskSignal(event.signal_number),)


def _ask_pause(state: Running | Paused, _event: PauseRequested) -> Step:
    # Asked of a paused job too: a resume may be under way.
    return state, (AskPause(),)


def _ask_resume(state: Running | Paused, _event: ResumeRequested) -> Step:
    # Asked of a running job too: a pause may be under way.
    return state, (AskResume(),)


def _fail_launch(_state: Queued | Starting, event: LaunchRefused) -> Step:
    final = StartFailed(event.at_ns, Cause.UNKNOWN, event.reason)
    return final, (WriteExit(final), Retire())


def _fail_stopped_launch(state: Stopping, event: LaunchRefused) -> Step:
    if state.handle is not None:
        return state, ()
    final = StartFailed(event.at_ns, state.cause, STOPPED_EARLY)
    return final, (WriteExit(final), Retire())


def _start(_state: Queued | Starting, event: Started) -> Step:
    return Running(event.handle), ()


def _start_stopping(state: Stopping, event: Started) -> Step:
    return replace(state, handle=state.handle or event.handle), ()


def _pause(state: Running, _event: PauseSeen) -> Step:
    return Paused(state.handle), ()


def _resume(state: Paused, _event: ResumeSeen) -> Step:
    return Running(state.handle), ()


def _stop_seen_starting(_state: Starting, event: StopSeen) -> Step:
    return Stopping(None, event.cause), ()


def _stop_seen(state: Running | Paused, event: StopSeen) -> Step:
    return Stopping(state.handle, event.cause), ()


def _correct_cause(state: Stopping, event: StopSeen) -> Step:
    # The shim's ladder may have begun for another cause before our request reached it.
    return replace(state, cause=event.cause), ()


def _replace_shim(state: Running | Paused, event: ShimReplaced) -> Step:
    return replace(state, handle=replace(state.handle, shim_pid=event.shim_pid)), ()


def _replace_stopping_shim(state: Stopping, event: ShimReplaced) -> Step:
    if state.handle is None:
        return state, ()
    return replace(state, handle=replace(state.handle, shim_pid=event.shim_pid)), ()


def _end(_state: ActiveState, event: Recorded) -> Step:
    return event.final, (Retire(),)


def _lose(state: ActiveState, event: Gone) -> Step:
    handle = None if isinstance(state, Queued | Starting) else state.handle
    final = Lost(
        noticed_at_ns=event.at_ns,
        cause=event.cause,
        reason=event.reason,
        started_at_ns=None if handle is None else handle.started_at_ns,
        surviving_pids=event.surviving_pids,
    )
    return final, (WriteExit(final), Retire())


def _adopt(_state: ActiveState, event: Adopted) -> Step:
    return event.state, ()


_ANY_END = (Ended, StartFailed, Lost)
_ANY_ACTIVE = (Queued, Starting, Running, Paused, Stopping)

TRANSITIONS: Mapping[tuple[type[State], type[LifeEvent]], Move] = {
    (Queued, LaunchRequested): _move(_launch, Starting),
    (Queued, StopRequested): _move(_end_unstarted, StartFailed),
    (Queued, LaunchRefused): _move(_fail_launch, StartFailed),
    (Queued, Started): _move(_start, Running),
    (Queued, Recorded): _move(_end, *_ANY_END),
    (Queued, Gone): _move(_lose, Lost),
    (Queued, Adopted): _move(_adopt, *_ANY_ACTIVE),
    (Starting, LaunchRequested): _move(_launch_again, Starting),
    (Starting, StopRequested): _move(_stop_starting, Stopping),
    (Starting, LaunchRefused): _move(_fail_launch, StartFailed),
    (Starting, Started): _move(_start, Running),
    (Starting, StopSeen): _move(_stop_seen_starting, Stopping),
    (Starting, Recorded): _move(_end, *_ANY_END),
    (Starting, Gone): _move(_lose, Lost),
    (Starting, Adopted): _move(_adopt, *_ANY_ACTIVE),
    (Running, StopRequested): _move(_stop, Stopping),
    (Running, SignalRequested): _move(_signal, Running),
    (Running, PauseRequested): _move(_ask_pause, Running),
    (Running, ResumeRequested): _move(_ask_resume, Running),
    (Running, PauseSeen): _move(_pause, Paused),
    (Running, StopSeen): _move(_stop_seen, Stopping),
    (Running, ShimReplaced): _move(_replace_shim, Running),
    (Running, Recorded): _move(_end, *_ANY_END),
    (Running, Gone): _move(_lose, Lost),
    (Running, Adopted): _move(_adopt, *_ANY_ACTIVE),
    (Paused, StopRequested): _move(_stop, Stopping),
    (Paused, SignalRequested): _move(_signal, Paused),
    (Paused, PauseRequested): _move(_ask_pause, Paused),
    (Paused, ResumeRequested): _move(_ask_resume, Paused),
    (Paused, ResumeSeen): _move(_resume, Running),
    (Paused, StopSeen): _move(_stop_seen, Stopping),
    (Paused, ShimReplaced): _move(_replace_shim, Paused),
    (Paused, Recorded): _move(_end, *_ANY_END),
    (Paused, Gone): _move(_lose, Lost),
    (Paused, Adopted): _move(_adopt, *_ANY_ACTIVE),
    (Stopping, StopRequested): _move(_hasten_stop, Stopping),
    (Stopping, SignalRequested): _move(_signal, Stopping),
    (Stopping, LaunchRefused): _move(_fail_stopped_launch, Stopping, StartFailed),
    (Stopping, Started): _move(_start_stopping, Stopping),
    (Stopping, StopSeen): _move(_correct_cause, Stopping),
    (Stopping, ShimReplaced): _move(_replace_stopping_shim, Stopping),
    (Stopping, Recorded): _move(_end, *_ANY_END),
    (Stopping, Gone): _move(_lose, Lost),
    (Stopping, Adopted): _move(_adopt, *_ANY_ACTIVE),
}

_LATE_REPORTS: tuple[type[LifeEvent], ...] = (
    LaunchRefused,
    Started,
    PauseSeen,
    ResumeSeen,
    StopSeen,
    ShimReplaced,
    Recorded,
    Gone,
    Adopted,
)
_REQUESTS: tuple[type[LifeEvent], ...] = (
    LaunchRequested,
    StopRequested,
    SignalRequested,
    PauseRequested,
    ResumeRequested,
)


def _pairs(
    rows: Mapping[type[State], tuple[type[LifeEvent], ...]],
) -> frozenset[tuple[type[State], type[LifeEvent]]]:
    return frozenset((state, event) for state, events in rows.items() for event in events)


#: Reports that come late, twice, or cross a request on the way: nothing happens.
IGNORED = _pairs(
    {
        Starting: (ShimReplaced,),
        Running: (LaunchRefused, Started, ResumeSeen),
        Paused: (LaunchRefused, Started, PauseSeen),
        Stopping: (PauseSeen, ResumeSeen),
        Ended: _LATE_REPORTS,
        StartFailed: _LATE_REPORTS,
        Lost: _LATE_REPORTS,
    }
)

#: What nobody may ask, and what no shim can truthfully report.
ILLEGAL = _pairs(
    {
        Queued: (
            SignalRequested,
            PauseRequested,
            ResumeRequested,
            PauseSeen,
            ResumeSeen,
            StopSeen,
            ShimReplaced,
        ),
        Starting: (SignalRequested, PauseRequested, ResumeRequested, PauseSeen, ResumeSeen),
        Running: (LaunchRequested,),
        Paused: (LaunchRequested,),
        Stopping: (LaunchRequested, PauseRequested, ResumeRequested),
        Ended: _REQUESTS,
        StartFailed: _REQUESTS,
        Lost: _REQUESTS,
    }
)


def step(state: State, event: LifeEvent) -> Step:
    """Return the next state and the commands to carry out. Pure.

    Raises:
        InvalidTransitionError: The event is illegal in this state.

    """
    pair = (type(state), type(event))
    move = TRANSITIONS.get(pair)
    if move is not None:
        return move.handler(state, event)
    if pair in IGNORED:
        return state, ()
    raise InvalidTransitionError(f"{type(event).__name__} is not possible: {describe(state)}")


def render_mermaid() -> str:
    """Return the table as a Mermaid state diagram. Pure.

    Moves that lead back to the same state are left out, and an adoption too: it leads from
    every active state to every other.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for (source, event), move in TRANSITIONS.items():
        for target in move.targets:
            if target is not source and event is not Adopted:
                arrows.setdefault((_label(source), _label(target)), []).append(event.__name__)
    lines = ["stateDiagram-v2", f"    [*] --> {_label(Queued)}"]
    lines += [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in arrows.items()]
    lines += [f"    {_label(final)} --> [*]" for final in get_args(FinalState)]
    return "\n".join(lines) + "\n"


def _label(state: type[State]) -> str:
    return "start_failed" if state is StartFailed else state.__name__.lower()
