"""The guard's hands: what each act of the policy does to processes, files and the server.

Freezing and killing go straight to the processes, because every hop through another process
costs a turn of the scheduler. The stop ladder stays with the job's shim, its only owner; the
warden notes what it is about to do first (`journal`), so that it can be killed between any two
steps.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentd.core.contract import GuardNotice, NoticeKind, Pause, Resume, Stop
from agentd.core.guard import explain
from agentd.core.guard.adopt import was_ending, was_frozen, was_held
from agentd.core.guard.model import (
    Act,
    CameBack,
    Freeze,
    Hold,
    Kill,
    Release,
    Tell,
    Terminate,
    Thaw,
    Verdict,
)
from agentd.core.guard.state import Ending, Frozen, Held
from agentd.core.guard.units import size_text
from agentd.core.job import Cause
from agentd.paths import Paths
from agentd.system.clock import wall_ns
from agentd.system.crashpoint import reach
from agentd.system.memory.leftovers import SHM, Leftover
from agentd.warden.guard import journal
from agentd.warden.guard.journal import Entry, Journal, Phase
from agentd.warden.guard.tree import Freezing
from agentd.warden.guard.ward import Ward
from agentd.warden.shims import Shims

#: One look's share of stopping a tree; the rest follows at the next.
FREEZE_SLICE_S = 0.02
#: Of the files a job has left.
_NAMES_TOLD = 5


@dataclass(frozen=True, slots=True)
class _Deed:
    """How one is called: in verdict.json, in the reason, in the notice."""

    action: str
    done: str
    kind: NoticeKind


_DEEDS = {
    Phase.HELD: _Deed("pause", "paused", NoticeKind.PAUSED),
    Phase.TERMINATING: _Deed("terminate", "stopped", NoticeKind.TERMINATED),
    Phase.KILLING: _Deed("kill", "killed", NoticeKind.KILLED),
}


class Hands:
    """Carries out acts, one after the other."""

    def __init__(
        self, paths: Paths, shims: Shims, state: Journal, notify: Callable[[GuardNotice], None]
    ) -> None:
        """`notify` keeps a notice and passes it to the server."""
        #: Whether what is told would have been done otherwise.
        self.is_dry = False
        #: Why what was held is let go on, if it is not that memory is back.
        self.is_off = False
        self._paths = paths
        self._shims = shims
        self._journal = state
        self._notify = notify

    def carry_out(self, act: Act, ward: Ward | None) -> None:
        """Do what the policy wants; `ward` is the job it is about, if that still lives."""
        match act:
            case Tell(text=text, job_id=job_id):
                kind = NoticeKind.WOULD_ACT if self.is_dry else NoticeKind.WARNED
                self._say(kind, text, job_id or 0)
            case CameBack():
                self._came_back(act)
            case _ if ward is None:
                # It ended between the look and the act.
                return
            case Freeze():
                self._freeze(ward)
            case Thaw():
                self._thaw(ward)
            case Hold(verdict=verdict):
                self._hold(ward, verdict)
            case Release():
                self._release(ward)
            case Terminate(verdict=verdict, grace_s=grace_s):
                self._terminate(ward, verdict, grace_s)
            case Kill(verdict=verdict):
                self._kill(ward, verdict)
            case _:
                raise TypeError(f"{type(act).__name__} is no act")

    def continue_with(self, ward: Ward, entry: Entry) -> Frozen | Held | Ending:
        """Do what a warden that was killed may have left undone; return what the policy is told.

        Each step may be done twice, and none is left out: a stop that was asked for, a pause that
        was announced.
        """
        verdict = entry.verdict
        if verdict is None:
            ward.freezing = Freezing(ward.tree)
            return was_frozen(entry.since_ns)
        # The last warden may not have come to telling it.
        self._say_act(ward)
        if entry.phase is Phase.HELD:
            self._shims.pass_on(ward.job_id, Pause(ward.job_id))
            return was_held(verdict, entry.since_ns)
        is_killed = entry.phase is Phase.KILLING
        rules = ward.job.rules
        grace_s = 0.0 if is_killed or rules is None else rules.grace_s
        if ward.job.view.phase != "stopping":
            reason = explain.reason(verdict, "killed" if is_killed else "stopped")
            self._shims.pass_on(ward.job_id, Stop(ward.job_id, grace_s, Cause.GUARD, reason))
        return was_ending(verdict, entry.since_ns, grace_s=grace_s, is_killed=is_killed)

    def _freeze(self, ward: Ward) -> None:
        self._journal.note(ward.job_id, Entry(Phase.FROZEN, time.monotonic_ns()))
        reach("warden.guard.freeze_noted")
        ward.freezing = Freezing(ward.tree)
        ward.freezing.go_on(FREEZE_SLICE_S)
        ward.start_anew()
        reach("warden.guard.frozen")

    def _thaw(self, ward: Ward) -> None:
        ward.freezing = None
        if ward.job.view.phase == "paused":
            # A rescue shim found it stopped, and has to know that it is not paused.
            self._shims.pass_on(ward.job_id, Resume(ward.job_id))
        ward.tree.send(signal.SIGCONT)
        self._journal.drop(ward.job_id)

    def _hold(self, ward: Ward, verdict: Verdict) -> None:
        self._note(ward, Phase.HELD, verdict)
        # Its shim must know: it says "paused" to everybody, and a resume goes through it.
        self._shims.pass_on(ward.job_id, Pause(ward.job_id))
        self._say_act(ward)

    def _release(self, ward: Ward) -> None:
        self._shims.pass_on(ward.job_id, Resume(ward.job_id))
        self._journal.drop(ward.job_id)
        why = "memory is back"
        if self.is_off:
            why = "it was switched off"
        elif self.is_dry:
            why = "it only runs dry from now on"
        self._say(NoticeKind.RELEASED, f"resumed by the guard: {why}", ward.job_id)

    def _terminate(self, ward: Ward, verdict: Verdict, grace_s: float) -> None:
        reason = self._note(ward, Phase.TERMINATING, verdict)
        self._shims.pass_on(ward.job_id, Stop(ward.job_id, grace_s, Cause.GUARD, reason))
        reach("warden.guard.told")
        self._say_act(ward)

    def _kill(self, ward: Ward, verdict: Verdict) -> None:
        reason = self._note(ward, Phase.KILLING, verdict)
        # The shim repeats it until nothing is left, and knows whom to name in the record.
        self._shims.pass_on(ward.job_id, Stop(ward.job_id, 0.0, Cause.GUARD, reason))
        ward.tree.send(signal.SIGSTOP)
        ward.tree.send(signal.SIGKILL)
        self._say_act(ward)

    def _note(self, ward: Ward, phase: Phase, verdict: Verdict) -> str:
        """Write down what is about to be done, and return why."""
        reason = explain.reason(verdict, _DEEDS[phase].done)
        self._journal.note(ward.job_id, Entry(phase, time.monotonic_ns(), verdict, wall_ns()))
        ward.freezing = None
        journal.write_verdict(ward.directory, _DEEDS[phase].action, verdict, reason)
        reach("warden.guard.verdict_written")
        return reason

    def _say_act(self, ward: Ward) -> None:
        """Tell of what the journal says of the job; told twice, it is one notice."""
        entry = self._journal.entries[ward.job_id]
        if entry.verdict is not None:
            deed = _DEEDS[entry.phase]
            reason = explain.reason(entry.verdict, deed.done)
            self._notify(GuardNotice(deed.kind, entry.noticed_at_ns, reason, ward.job_id))

    def tell_leftovers(self, job_id: int, left: Sequence[Leftover]) -> None:
        """Say what files a job has left in memory, and how to be rid of them."""
        size = size_text(sum(leftover.size_bytes for leftover in left))
        names = " ".join(shlex.quote(f"{SHM}/{leftover.name}") for leftover in left[:_NAMES_TOLD])
        more = f" and {len(left) - _NAMES_TOLD} more" if len(left) > _NAMES_TOLD else ""
        text = f"left {size} of memory behind in files that nobody uses: rm {names}{more}"
        self._say(NoticeKind.WARNED, text, job_id)

    def _came_back(self, act: CameBack) -> None:
        directory = self._paths.job(act.job_id)
        journal.add_outcome(directory, act.freed_bytes, act.took_ns, act.host_available_bytes)
        self._say(NoticeKind.CAME_BACK, explain.came_back(act), act.job_id)

    def _say(self, kind: NoticeKind, text: str, job_id: int) -> None:
        self._notify(GuardNotice(kind, wall_ns(), text, job_id))


def job_of(act: Act) -> int | None:
    """Return which job an act is about; None: about the host. Pure."""
    match act:
        case Freeze(job_id) | Thaw(job_id) | Release(job_id) | CameBack(job_id):
            return job_id
        case Hold(verdict) | Kill(verdict):
            return verdict.job_id
        case Terminate(verdict, _):
            return verdict.job_id
        case Tell(_, job_id):
            return job_id
        case _:
            return None
