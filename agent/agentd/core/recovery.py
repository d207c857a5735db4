"""What to do about a job whose end is not indexed, after the server was away. Pure.

Everything that can be known is gathered first (`Facts`), then `decide` says what follows.
The order of the questions is the order of trust: an exit record on disk is the truth; a
shim that a living warden minds is alive; a pidfile that nobody wrote into means the job never
began. What is left was begun and is not there any more: lost, never "killed" and never "ok".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agentd.core.contract import JobView
from agentd.core.job import (
    ActiveState,
    Cause,
    FinalState,
    LeaderHandle,
    Paused,
    ProcessId,
    Running,
    Starting,
    Stopping,
)
from agentd.core.lifecycle import STOPPED_EARLY


class Standing(Enum):
    """How a file of the job directory was found."""

    ABSENT = "absent"
    SOUND = "sound"
    #: Torn, empty or not ours.
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one job."""

    spec: Standing
    #: Boot id of this boot, to hold the pidfile's against.
    boot_id: str
    exit: Standing = Standing.ABSENT
    #: With a sound exit record only.
    final: FinalState | None = None
    #: SOUND: a leader was started. ABSENT: none was.
    pid: Standing = Standing.ABSENT
    #: With a sound pidfile only.
    started_in_boot: str = ""
    #: Somebody holds the pidfile's lock. None: cannot tell.
    locked: bool | None = False
    #: What the warden says of it. None: it does not mind the job.
    view: JobView | None = None
    #: The index has it running: it began, whatever the pidfile has lost.
    was_seen_running: bool = False
    #: A stop was asked for before the server went away.
    stop_cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """It was never acknowledged: remove what there is."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Its end stands on disk: index it."""

    final: FinalState


@dataclass(frozen=True, slots=True)
class Adopt:
    """It lives: show it as the warden sees it."""

    state: ActiveState


@dataclass(frozen=True, slots=True)
class Launch:
    """It never began: launch it."""


@dataclass(frozen=True, slots=True)
class GiveUpStart:
    """It never began and never shall."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Lose:
    """It began, and nobody will know how it ended."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A shim seems to live that the warden does not mind yet: look again later."""


Decision = Discard | Finish | Adopt | Launch | GiveUpStart | Lose | Wait


def decide(facts: Facts) -> Decision:
    """Return what to do. Pure."""
    if facts.final is not None:
        return Finish(facts.final)
    if facts.view is not None:
        return Adopt(state_of(facts.view))
    if facts.pid is Standing.SOUND and facts.exit is not Standing.CORRUPT:
        return _decide_begun(facts)
    loss = _why_lost(facts)
    return _decide_unbegun(facts) if loss is None else loss


def _why_lost(facts: Facts) -> Lose | None:
    if facts.exit is Standing.CORRUPT:
        return Lose(Cause.UNKNOWN, "the exit record was unreadable; it was set aside")
    if facts.pid is Standing.CORRUPT:
        return Lose(Cause.UNKNOWN, "its pidfile is unreadable")
    if facts.was_seen_running and facts.locked is False:
        return Lose(Cause.UNKNOWN, "its pidfile has vanished and nobody saw the end")
    return None


def _decide_begun(facts: Facts) -> Decision:
    if facts.started_in_boot != facts.boot_id:
        return Lose(Cause.REBOOT, "the machine was restarted while the job ran")
    # "Cannot tell" is a third answer and never treated as dead.
    if facts.locked is not False:
        return Wait()
    return Lose(Cause.UNKNOWN, "its shim was killed and nobody saw the end")


def _decide_unbegun(facts: Facts) -> Decision:
    if facts.spec is Standing.ABSENT:
        return Discard()
    if facts.locked is not False:
        return Wait()
    if facts.stop_cause is not None:
        return GiveUpStart(facts.stop_cause, STOPPED_EARLY)
    if facts.spec is Standing.CORRUPT:
        return GiveUpStart(Cause.UNKNOWN, "its spec.json is unreadable")
    return Launch()


def state_of(view: JobView) -> ActiveState:
    """Return the state a view stands for; a phase this version does not know runs. Pure."""
    handle = handle_of(view)
    if view.phase == "stopping":
        return Stopping(handle, view.cause)
    if handle is None:
        return Starting()
    return Paused(handle) if view.phase == "paused" else Running(handle)


def handle_of(view: JobView) -> LeaderHandle | None:
    """Return the leader, or None before the start. Pure."""
    if not view.leader_pid:
        return None
    leader = ProcessId(view.leader_pid, view.leader_start_ticks)
    return LeaderHandle(view.started_at_ns, leader, view.shim_pid or None)
