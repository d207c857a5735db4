"""Minds one job from its start to its exit record.

A single loop over one epoll: output, control messages, ended children, deadlines. The order
at the end is fixed: the leader has ended (looked at, not reaped) -> what it left behind is
stopped -> the output is drained -> the exit record is durable -> everybody is told -> the
leader is reaped. Until the record stands, the zombie is the second witness.
"""

from __future__ import annotations

import os
from select import EPOLLIN
from time import sleep

from agentd.core.ending import GUARD, SELF, TIMEOUT
from agentd.errors import RecordCorruptError
from agentd.shim import ending, evidence, records, words
from agentd.shim.ladder import Ladder
from agentd.shim.leaderwatch import ForeignLeader
from agentd.shim.pump import LogLimits, Progress, Pump
from agentd.shim.records import Stop
from agentd.shim.tree import freeze
from agentd.system import cgroups, jobfiles, proc
from agentd.system.clock import boot_ns
from agentd.system.complaint import complain
from agentd.system.crashpoint import reach
from agentd.system.kernel import Ended
from agentd.system.signals import SIGCONT, SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from _socket import socket as c_socket
    from typing import Any

    from agentd.shim.channels import ReadEnds
    from agentd.shim.control import Control
    from agentd.shim.leaderwatch import LeaderWatch, Unknown
    from agentd.shim.plan import Plan
    from agentd.shim.start import StartError, StartTalk
    from agentd.shim.tree import Tree

_S = 1_000_000_000
#: How often a rescue shim looks at processes that are not below it, once the leader has ended.
_FOREIGN_LOOK_NS = 50_000_000
_RECORD_RETRY_NS = 1 * _S
_AFTER_ERROR_S = 1.0
#: Steps of one stream before the others have their turn.
_STEPS_AT_ONCE = 16


class Minder:
    """One job; lives in the shim's process, in the job's directory."""

    def __init__(
        self,
        plan: Plan,
        ends: ReadEnds,
        control: Control,
        epoll: select.epoll,
        watch: LeaderWatch,
        tree: Tree,
        talk: StartTalk | None,
    ) -> None:
        """Mind a job that has begun. `talk` is None if its program is known to run already."""
        self._plan = plan
        self._ends = ends
        self._control = control
        self._epoll = epoll
        self._watch = watch
        self._tree = tree
        self._talk = talk
        self._start_error: StartError | None = None
        self._exit: Ended | Unknown | None = None
        self._ladder: Ladder | None = None
        self._stop: Stop | None = None
        self._sent_signals: set[int] = set()
        self._paused = False
        self._over = False
        self._record: bytes | None = None
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
        self._paused = proc.is_stopped(self._plan.leader_pid)
        try:
            self._stop = records.read_stop()
        except RecordCorruptError as error:
            # It costs the cause of the end, not the end.
            complain(f"shim of job {self._plan.job_id}: {error}")
        if self._stop is not None:
            self._ladder = Ladder(self._tree, self._stop.kill_at_boot_ns)

    def view(self) -> dict[str, object]:
        """Return what a warden needs to know."""
        return words.view(
            job_id=self._plan.job_id,
            phase=self._phase(),
            started_at_ns=self._plan.started_at_ns,
            leader_pid=self._plan.leader_pid,
            leader_start_ticks=self._plan.leader_start_ticks,
            shim_pid=os.getpid(),
            cause=self._stop.cause if self._stop else SELF,
        )

    def _phase(self) -> str:
        if self._ladder is not None:
            return "stopping"
        if self._talk is not None:
            return "starting"
        return "paused" if self._paused else "running"

    def mind(self, wakeup: int) -> None:
        """Run until the exit record is durable. `wakeup` is readable after a SIGCHLD."""
        self._epoll.register(wakeup, EPOLLIN)
        for source in (*self._pumps, self._ends.start, self._watch.pidfd):
            if source >= 0:
                self._epoll.register(source, EPOLLIN)
        self._tick()
        while not self._over:
            try:
                for descriptor, _ in self._epoll.poll(self._wait_s()):
                    self._serve(descriptor, wakeup)
                self._tick()
            except OSError as error:
                # Out of descriptors or memory, as a rule not for long: the job is still ours.
                complain(f"shim of job {self._plan.job_id}: {error}")
                sleep(_AFTER_ERROR_S)

    def _wait_s(self) -> float | None:
        first_ns = None
        for at_ns in (
            self._ladder.wake_at_ns if self._ladder else self._timeout_at_ns(),
            self._look_at_ns,
            self._record_at_ns or None,
            self._control.listen_at_ns,
        ):
            if at_ns is not None and (first_ns is None or at_ns < first_ns):
                first_ns = at_ns
        return None if first_ns is None else max(0.0, (first_ns - boot_ns()) / _S)

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
        self._control.broadcast(self._plan.announcement)

    def _reap_orphans(self) -> None:
        for pid in proc.own_children():
            if pid != self._plan.leader_pid:
                os.waitpid(pid, os.WNOHANG)

    def _obey(self, peer: c_socket, message: dict[str, Any]) -> None:
        """Do what one message of core.contract says; unknown ones are skipped."""
        match message:
            case {"type": "Adopt"}:
                self.introduce(peer)
            case {"type": "Stop", "cause": cause, "grace_s": grace_s}:
                kill_at_ns = boot_ns() + int(grace_s * _S)
                self._begin_stop(Stop(cause, kill_at_ns, message.get("reason", "")))
            case {"type": "SendSignal", "signal_number": number}:
                self._sent_signals.add(number)
                self._tree.send_to_group(number)
            case {"type": "Pause"} if self._ladder is not None:
                # Frozen, nobody could use the grace.
                pass
            case {"type": "Pause"}:
                freeze(self._tree)
                self._paused = True
                self._control.broadcast(words.paused(self._plan.job_id))
            case {"type": "Resume"}:
                self._tree.send(SIGCONT)
                self._paused = False
                self._control.broadcast(words.resumed(self._plan.job_id))
            case {"type": "LeaderExited"} if isinstance(self._watch, ForeignLeader):
                self._watch.tell(
                    Ended(
                        message["wait_status"],
                        message["cpu_user_s"],
                        message["cpu_system_s"],
                        message["peak_memory_bytes"],
                    )
                )
                self._look_at_ns = 0
            case _:
                pass

    def introduce(self, peer: c_socket) -> None:
        """Tell a warden what is minded here, and hand it the descriptors."""
        named = self._ends.named()
        self._control.send(peer, words.adopted(self.view(), named), named)

    def _begin_stop(self, stop: Stop) -> None:
        if self._exit is None:
            # It may have ended by itself just now.
            self._look()
        if self._ladder is not None:
            self._ladder.hurry(stop.kill_at_boot_ns)
            if not self._ladder.killing:
                # The guard may have stopped it since its SIGTERM, which it is to see.
                self._tree.send(SIGCONT)
            return
        if self._exit is not None:
            return
        self._stop = stop
        try:
            stop.write()
        except OSError:
            # A full disk: should we be killed now, the record will say "self".
            pass
        reach("shim.stop_noted")
        self._start_ladder(stop.cause, stop.kill_at_boot_ns)

    def _start_ladder(self, cause: str, kill_at_ns: int) -> None:
        self._paused = False
        self._ladder = Ladder(self._tree, kill_at_ns)
        reach("shim.terminated")
        self._control.broadcast(words.stopping(self._plan.job_id, cause))

    def _tick(self) -> None:
        now_ns = boot_ns()
        if self._control.listen_at_ns is not None and now_ns >= self._control.listen_at_ns:
            self._control.listen()
        timeout_at_ns = self._timeout_at_ns()
        if timeout_at_ns is not None and now_ns >= timeout_at_ns and self._ladder is None:
            reason = f"stopped after its timeout of {self._plan.timeout_ns / _S:g} s"
            kill_at_ns = now_ns + self._plan.grace_ns
            self._begin_stop(Stop(TIMEOUT, kill_at_ns, reason))
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
        if self._ladder is None and not self._tree.is_empty():
            self._start_ladder(SELF, boot_ns() + self._plan.grace_ns)

    def _try_to_finish(self) -> None:
        if not self._tree.is_empty():
            if isinstance(self._watch, ForeignLeader):
                self._record_at_ns = boot_ns() + _FOREIGN_LOOK_NS
            return
        if self._start_error is None:
            self._hear_outcome()
        for pump in self._pumps.values():
            while pump.step() is Progress.MOVED:
                pass
        reach("shim.drained")
        if self._record is None:
            # Once: an end that the disk refuses for an hour was an hour ago.
            self._record = self._final()
        try:
            jobfiles.write_exit(".", self._record)
        except OSError:
            self._record_at_ns = boot_ns() + _RECORD_RETRY_NS
            return
        reach("shim.recorded")
        self._over = True
        self._control.close()
        self._control.broadcast(words.recorded(self._plan.job_id))
        self._watch.reap()
        if self._plan.cgroup:
            # It has told what it knew, and now nobody waits.
            cgroups.remove(self._plan.cgroup)

    def _final(self) -> bytes:
        if self._start_error is not None:
            return ending.start_failed(self._start_error)
        if not isinstance(self._exit, Ended):
            reason = "its shim was killed, and so was the warden that could have seen the end"
            return ending.lost(reason, self._plan.started_at_ns)
        found = evidence.gather(self._plan, self._exit.wait_status)
        stop = None
        if self._stop is not None:
            stop = self._stop.cause, self._stop_reason(self._stop, self._exit, found.verdict)
        return ending.ended(self._plan, self._exit, stop, frozenset(self._sent_signals), found)

    def _stop_reason(self, stop: Stop, seen: Ended, verdict: evidence.Verdict | None) -> str:
        reason = stop.reason
        if stop.cause == GUARD and verdict is not None:
            # The last one: it may have been harder than the one that began the stop.
            reason = verdict.reason
            if verdict.action == evidence.KILL:
                return reason
        ladder = self._ladder
        if ladder is None or ladder.is_hurried or not ladder.has_terminated:
            return reason
        killed = os.WIFSIGNALED(seen.wait_status) and os.WTERMSIG(seen.wait_status) == SIGKILL
        if ladder.killing and killed:
            return f"{reason}; " * bool(reason) + "killed when its grace was over"
        return reason
