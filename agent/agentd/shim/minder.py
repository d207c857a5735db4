"""Minds one job from its start to its exit record.

A single loop over one epoll: output, control messages, ended children, deadlines. The order
at the end is fixed: the leader has ended (looked at, not reaped) -> what it left behind is
stopped -> the output is drained -> the exit record is durable -> everybody is told -> the
leader is reaped. Until the record stands, the zombie is the second witness.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from _socket import socket as c_socket
from dataclasses import dataclass

from agentd.core.contract import (
    Adopt,
    Adopted,
    JobPaused,
    JobRecorded,
    JobResumed,
    JobStopping,
    JobView,
    LeaderExited,
    Message,
    Pause,
    Resume,
    SendSignal,
    Stop,
)
from agentd.core.ending import cause_of_end
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FinalState,
    Lost,
    ResourceUsage,
    StartFailed,
)
from agentd.errors import RecordCorruptError
from agentd.shim.channels import ReadEnds
from agentd.shim.control import Control
from agentd.shim.ladder import Ladder
from agentd.shim.leaderwatch import ForeignLeader, LeaderWatch, Unknown
from agentd.shim.plan import Plan
from agentd.shim.pump import LogLimits, Progress, Pump
from agentd.shim.start import StartError, StartTalk
from agentd.shim.tree import Tree, freeze
from agentd.system import jobdir, process
from agentd.system.clock import boot_ns, wall_ns
from agentd.system.crashpoint import reach
from agentd.system.prctl import Exit
from agentd.system.records import StopRecord

_S = 1_000_000_000
#: How often a rescue shim looks at processes that are not below it, once the leader has ended.
_FOREIGN_LOOK_NS = 50_000_000
_RECORD_RETRY_NS = 1 * _S
#: Steps of one stream before the others have their turn.
_STEPS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What a minder works with; they differ between a shim and a rescue shim."""

    ends: ReadEnds
    control: Control
    epoll: select.epoll
    watch: LeaderWatch
    tree: Tree
    #: None: the program is known to run already.
    talk: StartTalk | None


class Minder:
    """One job; lives in the shim's process, in the job's directory."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        """Mind a job that has begun."""
        self._plan = plan
        self._ends = parts.ends
        self._control = parts.control
        self._epoll = parts.epoll
        self._watch = parts.watch
        self._tree = parts.tree
        self._talk = parts.talk
        self._start_error: StartError | None = None
        self._exit: Exit | Unknown | None = None
        self._ladder: Ladder | None = None
        self._stop: StopRecord | None = None
        self._sent_signals: set[int] = set()
        self._paused = False
        self._over = False
        self._look_at_ns: int | None = 0
        self._record_at_ns = 0
        limits = LogLimits(plan.segment_bytes, plan.retention_bytes)
        self._pumps: dict[int, Pump] = {}
        for stream, source in (("out", self._ends.out), ("err", self._ends.err)):
            if source >= 0:
                self._pumps[source] = Pump(stream, source, limits)

    def resume(self) -> None:
        """Find out how far a killed shim had come: its log, a pause, a stop under way."""
        for pump in self._pumps.values():
            pump.resume()
        self._paused = process.is_stopped(self._plan.leader_pid)
        try:
            self._stop = jobdir.read_stop(".")
        except RecordCorruptError as error:
            # It costs the cause of the end, not the end.
            print(f"shim of job {self._plan.job_id}: {error}", file=sys.stderr)  # noqa: T201  # its only log
        if self._stop is not None:
            self._ladder = Ladder(self._tree, self._stop.kill_at_boot_ns)

    def view(self) -> JobView:
        """Return what a warden needs to know."""
        return JobView(
            job_id=self._plan.job_id,
            phase=self._phase(),
            started_at_ns=self._plan.started_at_ns,
            leader_pid=self._plan.leader_pid,
            leader_start_ticks=self._plan.leader_start_ticks,
            shim_pid=os.getpid(),
            cause=self._stop.cause if self._stop else Cause.SELF,
        )

    def _phase(self) -> str:
        if self._ladder is not None:
            return "stopping"
        if self._talk is not None:
            return "starting"
        return "paused" if self._paused else "running"

    def mind(self, wakeup: int) -> None:
        """Run until the exit record is durable. `wakeup` is readable after a SIGCHLD."""
        self._epoll.register(wakeup, select.EPOLLIN)
        for source in (*self._pumps, self._ends.start, self._watch.pidfd):
            if source >= 0:
                self._epoll.register(source, select.EPOLLIN)
        self._tick()
        while not self._over:
            for descriptor, _ in self._epoll.poll(self._wait_s()):
                self._serve(descriptor, wakeup)
            self._tick()

    def _wait_s(self) -> float | None:
        deadlines = [
            at_ns
            for at_ns in (
                self._ladder.wake_at_ns if self._ladder else self._timeout_at_ns(),
                self._look_at_ns,
                self._record_at_ns or None,
            )
            if at_ns is not None
        ]
        return max(0.0, (min(deadlines) - boot_ns()) / _S) if deadlines else None

    def _timeout_at_ns(self) -> int | None:
        return self._plan.ends_at_boot_ns if self._exit is None else None

    def _serve(self, descriptor: int, wakeup: int) -> None:
        if descriptor in self._pumps:
            self._pump(descriptor)
        elif descriptor == wakeup:
            os.read(wakeup, 4096)
            self._reap_orphans()
            self._look_at_ns = 0
        elif descriptor == self._ends.start:
            self._hear_outcome()
        elif self._control.owns(descriptor):
            for peer, message in self._control.serve(descriptor):
                self._obey(peer, message)
            if isinstance(self._watch, ForeignLeader) and not self._control.has_first:
                # The warden that was the leader's parent is gone, and its word with it.
                self._watch.expects_word = False
        else:
            # The leader's pidfd; it stays readable, so looks at intervals follow.
            self._epoll.unregister(descriptor)
            self._look_at_ns = 0

    def _pump(self, source: int) -> None:
        pump = self._pumps[source]
        pump.collect()
        for _ in range(_STEPS_AT_ONCE):
            progress = pump.step()
            if progress is Progress.END:
                self._epoll.unregister(source)
                del self._pumps[source]
            if progress is not Progress.MOVED:
                return

    def _hear_outcome(self) -> None:
        """Learn whether the program was executed."""
        if self._talk is None:
            return
        try:
            self._start_error = self._talk.outcome()
        except BlockingIOError:
            return
        self._epoll.unregister(self._ends.start)
        if self._start_error is not None:
            return
        reach("shim.executed")
        self._talk.close()
        self._talk = None
        self._control.broadcast_bytes(self._plan.announcement)

    def _reap_orphans(self) -> None:
        for pid in process.children(os.getpid()):
            if pid != self._plan.leader_pid:
                os.waitpid(pid, os.WNOHANG)

    def _obey(self, peer: c_socket, message: Message) -> None:
        match message:
            case Adopt():
                named = self._ends.named()
                self._control.send(peer, Adopted(self.view(), tuple(named)), named)
            case Stop():
                kill_at_ns = boot_ns() + int(message.grace_s * _S)
                self._begin_stop(StopRecord(message.cause, kill_at_ns))
            case SendSignal():
                self._sent_signals.add(message.signal_number)
                self._tree.send_to_group(message.signal_number)
            case Pause():
                freeze(self._tree)
                self._paused = True
                self._control.broadcast(JobPaused(self._plan.job_id))
            case Resume():
                self._tree.send(signal.SIGCONT)
                self._paused = False
                self._control.broadcast(JobResumed(self._plan.job_id))
            case LeaderExited() if isinstance(self._watch, ForeignLeader):
                self._watch.tell(message)
                self._look_at_ns = 0
            case _:
                pass

    def _begin_stop(self, stop: StopRecord) -> None:
        if self._ladder is not None:
            self._ladder.hurry(stop.kill_at_boot_ns)
            return
        self._stop = stop
        try:
            jobdir.write_stop(".", stop)
        except OSError:
            # A full disk: should we be killed now, the record will say "self".
            pass
        reach("shim.stop_noted")
        self._start_ladder(stop.cause, stop.kill_at_boot_ns)

    def _start_ladder(self, cause: Cause, kill_at_ns: int) -> None:
        self._paused = False
        self._ladder = Ladder(self._tree, kill_at_ns)
        reach("shim.terminated")
        self._control.broadcast(JobStopping(self._plan.job_id, cause))

    def _tick(self) -> None:
        now_ns = boot_ns()
        timeout_at_ns = self._timeout_at_ns()
        if timeout_at_ns is not None and now_ns >= timeout_at_ns and self._ladder is None:
            reason = f"stopped after its timeout of {self._plan.timeout_ns / _S:g} s"
            kill_at_ns = now_ns + self._plan.grace_ns
            self._begin_stop(StopRecord(Cause.TIMEOUT, kill_at_ns, reason))
        if self._exit is None and self._look_at_ns is not None and now_ns >= self._look_at_ns:
            self._look()
        if self._ladder is not None:
            self._ladder.tick()
        if self._exit is not None and now_ns >= self._record_at_ns:
            self._try_to_finish()

    def _look(self) -> None:
        self._exit = self._watch.look()
        if self._exit is None:
            waiting = isinstance(self._watch, ForeignLeader) and self._watch.has_ended()
            self._look_at_ns = boot_ns() + _FOREIGN_LOOK_NS if waiting else None
            return
        reach("shim.leader_exited")
        foreign = isinstance(self._watch, ForeignLeader)
        self._look_at_ns = None
        self._record_at_ns = boot_ns() + _FOREIGN_LOOK_NS if foreign else 0
        if self._ladder is None and self._tree.members():
            self._start_ladder(Cause.SELF, boot_ns() + self._plan.grace_ns)

    def _try_to_finish(self) -> None:
        if self._tree.members():
            if isinstance(self._watch, ForeignLeader):
                self._record_at_ns = boot_ns() + _FOREIGN_LOOK_NS
            return
        if self._start_error is None:
            self._hear_outcome()
        for pump in self._pumps.values():
            while pump.step() is Progress.MOVED:
                pass
        reach("shim.drained")
        try:
            jobdir.write_exit(".", self._final())
        except OSError:
            self._record_at_ns = boot_ns() + _RECORD_RETRY_NS
            return
        reach("shim.recorded")
        self._over = True
        self._control.close()
        self._control.broadcast(JobRecorded(self._plan.job_id))
        self._watch.reap()

    def _final(self) -> FinalState:
        started_at_ns = self._plan.started_at_ns
        if self._start_error is not None:
            error = self._start_error
            return StartFailed(wall_ns(), Cause.SELF, error.reason, error.errno, error.path)
        if not isinstance(self._exit, Exit):
            reason = "its shim was killed, and so was the warden that could have seen the end"
            return Lost(wall_ns(), Cause.UNKNOWN, reason, started_at_ns)
        status = ExitStatus(self._exit.wait_status)
        stop = (self._stop.cause, self._stop_reason(status)) if self._stop else None
        cause, reason = cause_of_end(status, stop, frozenset(self._sent_signals))
        return Ended(
            started_at_ns=started_at_ns,
            ended_at_ns=wall_ns(),
            duration_ns=boot_ns() - self._plan.started_boot_ns,
            status=status,
            cause=cause,
            usage=_with_orphans(self._exit.usage),
            reason=reason,
        )

    def _stop_reason(self, status: ExitStatus) -> str:
        said = self._stop.reason if self._stop else ""
        if (
            self._ladder is not None
            and self._ladder.killing
            and status.signal_number == signal.SIGKILL
        ):
            return f"{said}; " * bool(said) + "killed when its grace was over"
        return said


def _with_orphans(leader: ResourceUsage) -> ResourceUsage:
    """Add what we reaped ourselves: whatever the job had daemonised."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ResourceUsage(
        cpu_user_s=leader.cpu_user_s + below.ru_utime,
        cpu_system_s=leader.cpu_system_s + below.ru_stime,
        peak_memory_bytes=max(leader.peak_memory_bytes, below.ru_maxrss * 1024),
    )
