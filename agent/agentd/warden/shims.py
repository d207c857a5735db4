"""Every shim of the agent: launched, adopted, rescued."""

from __future__ import annotations

import os
import time
from _socket import socket as c_socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from agentd.core.contract import (
    Adopted,
    JobGone,
    JobPaused,
    JobRecorded,
    JobResumed,
    JobStarted,
    JobStopping,
    JobView,
    Launch,
    LeaderExited,
    Message,
    Refused,
    ShimReplaced,
    Sweep,
)
from agentd.errors import RecordCorruptError
from agentd.paths import Paths
from agentd.shim.leader import Origin
from agentd.shim.main import Rescue
from agentd.system import jobdir, locks, packets, process
from agentd.system.crashpoint import reach
from agentd.system.prctl import Exit, look_at_exit
from agentd.warden import adoption
from agentd.warden.adoption import Found
from agentd.warden.loop import Loop
from agentd.warden.minded import MindedJob, starting_view
from agentd.warden.spawner import Spawner

#: A shim that dies this often before its leader began is not tried again.
_LAUNCHES_AT_MOST = 3
_RECONNECT_S = 1.0
_DYING_S = 0.001
_PHASE_AFTER = {JobPaused: "paused", JobResumed: "running", JobStopping: "stopping"}


class Shims:
    """The jobs this warden minds and the processes that mind them."""

    def __init__(
        self, paths: Paths, origin: Origin, loop: Loop, tell: Callable[[Message], None]
    ) -> None:
        """`tell` passes a message to the server, if there is one."""
        self._paths = paths
        self.spawner = Spawner(origin)
        self._loop = loop
        self._tell = tell
        self._jobs: dict[int, MindedJob] = {}
        self._to_launch: deque[int] = deque()
        self._unreachable: set[int] = set()
        self._reconnect_at_s = 0.0
        #: Jobs whose shim closed its socket but is not yet dead.
        self._dying: dict[int, MindedJob] = {}
        self._look_at_dying_s = 0.0
        #: Leaders that became our children; reaped only when their record stands.
        self._leaders: dict[int, int] = {}

    # What the loop asks.

    def due_s(self) -> float | None:
        """Return when there is something to launch or to reach again."""
        if self._to_launch:
            return 0.0
        if self._dying:
            return self._look_at_dying_s
        return self._reconnect_at_s if self._unreachable else None

    def run(self) -> None:
        """Launch one job, see to shims that die, or try again to reach those that were silent."""
        self._bury()
        if self._to_launch:
            self._launch_next()
        elif self._unreachable and time.monotonic() >= self._reconnect_at_s:
            self._reconnect()

    def _reconnect(self) -> None:
        self._reconnect_at_s = time.monotonic() + _RECONNECT_S
        for job_id in sorted(self._unreachable):
            self._reach(self._jobs[job_id])

    # What the server asks.

    def views(self) -> tuple[JobView, ...]:
        """Return what is known of every job minded."""
        return tuple(job.view for job in self._jobs.values() if not job.recorded)

    def launch(self, order: Launch) -> None:
        """Start a job in one of the next turns of the loop; asked twice, done once."""
        job_id = order.job_id
        if job_id in self._jobs:
            return
        view = starting_view(job_id)
        self._jobs[job_id] = MindedJob(job_id, self._paths.job(job_id), view, order.output)
        self._to_launch.append(job_id)

    def pass_on(self, job_id: int, order: Message) -> None:
        """Hand an order to the job's shim, now or as soon as there is one."""
        job = self._jobs.get(job_id)
        if job is None or job.recorded:
            self._tell(Refused(job_id, type(order).__name__, "no shim minds this job"))
        elif job.control is None or not packets.send(job.control, order):
            job.pending.append(order)

    def sweep(self, order: Sweep) -> None:
        """End what a lost job left behind, in a process of its own."""
        self.spawner.sweep(self._paths.job(order.job_id), order.grace_s)

    # Adoption.

    def adopt_all(self) -> None:
        """Take over every job that outlived the last warden."""
        for finding in adoption.look(self._paths):
            job = MindedJob(finding.job_id, self._paths.job(finding.job_id), finding.view)
            self._jobs[finding.job_id] = job
            if finding.condition is Found.MINDED:
                self._reach(job)
            else:
                self._rescue(job)

    @property
    def is_waiting_for_answers(self) -> bool:
        """Whether an adopted shim has not yet said what it minds."""
        return any(not job.descriptors and not job.rescued for job in self._jobs.values())

    def _reach(self, job: MindedJob) -> None:
        control = adoption.connect(job.directory)
        if control is None:
            if locks.is_locked(f"{job.directory}/{jobdir.PID}") is False:
                self._unreachable.discard(job.job_id)
                self._shim_gone(job)
            else:
                self._unreachable.add(job.job_id)
            return
        self._unreachable.discard(job.job_id)
        self._attend(job, control)

    # Launching.

    def _launch_next(self) -> None:
        job = self._jobs[self._to_launch.popleft()]
        reach("warden.before_spawn")
        job.rescued = False
        ours, theirs = packets.pair()
        if self.spawner.start(job.directory, theirs.fileno(), job.output):
            reach("warden.spawned")
        theirs.close()
        # An order that was not taken shows as a shim that is gone before it said a word.
        self._attend(job, ours)

    def _attend(self, job: MindedJob, control: c_socket) -> None:
        job.control = control
        self._loop.watch(control.fileno(), lambda _events: self.hear(job))
        pending, job.pending = job.pending, []
        for order in pending:
            self.pass_on(job.job_id, order)

    # What shims say.

    def hear(self, job: MindedJob) -> None:
        """Take everything one shim has sent."""
        while job.control is not None:
            try:
                received = packets.receive(job.control)
            except BlockingIOError:
                return
            if received is None:
                self._loop.forget(job.control.fileno())
                job.control.close()
                job.control = None
                self._dying[job.job_id] = job
                self._bury()
                return
            message, descriptors = received
            self._heed(job, message, descriptors)

    def _heed(self, job: MindedJob, message: Message | None, descriptors: list[int]) -> None:
        match message:
            case Adopted():
                first_word = job.view.shim_pid != message.view.shim_pid and job.rescued
                job.view = message.view
                job.replace_descriptors(dict(zip(message.descriptors, descriptors, strict=False)))
                if job.rescued:
                    self._send_word(job)
                    if first_word:
                        self._tell(ShimReplaced(job.job_id, message.view.shim_pid))
                return
            case JobStarted():
                job.view = replace(job.view, phase="running")
                self._drop_start(job)
            case JobPaused() | JobResumed() | JobStopping():
                job.view = replace(job.view, phase=_PHASE_AFTER[type(message)])
            case JobRecorded():
                job.recorded = True
                reach("warden.recorded")
                self._let_leader_go(job)
            case _:
                return
        self._tell(message)

    @staticmethod
    def _drop_start(job: MindedJob) -> None:
        descriptor = job.descriptors.pop("start", None)
        if descriptor is not None:
            os.close(descriptor)

    # A shim is gone.

    def _bury(self) -> None:
        """Act on shims that are dead for good.

        A dying process closes its sockets before its children get their new parent
        (do_exit() in kernel/exit.c); as a zombie it has none left.
        """
        self._look_at_dying_s = time.monotonic() + _DYING_S
        for job in list(self._dying.values()):
            if job.view.shim_pid == 0 or not process.is_running(job.view.shim_pid):
                del self._dying[job.job_id]
                self._shim_gone(job)

    def _shim_gone(self, job: MindedJob) -> None:
        reach("warden.shim_gone")
        if not job.recorded and os.path.exists(f"{job.directory}/{jobdir.EXIT}"):
            # Killed between the rename and the word about it.
            job.recorded = True
            self._tell(JobRecorded(job.job_id))
        if job.recorded:
            self._forget(job)
        elif self._has_begun(job) or self._may_begin(job):
            self._rescue(job)
        elif job.failed_launches < _LAUNCHES_AT_MOST:
            # Its program provably never ran: the gate was not opened.
            job.failed_launches += 1
            job.replace_descriptors({})
            job.view = starting_view(job.job_id)
            self._to_launch.append(job.job_id)
        else:
            self._give_up(job, "its shim ended before the program began, several times")

    @staticmethod
    def _has_begun(job: MindedJob) -> bool:
        try:
            return jobdir.read_pid(job.directory) is not None
        except RecordCorruptError:
            # Torn by a crash while it was written: the gate was still closed then.
            return False

    @staticmethod
    def _may_begin(job: MindedJob) -> bool:
        """Whether a leader was introduced that may be about to write its pidfile.

        A rescue shim waits for the lock that such a leader holds, and then sees.
        """
        return "start" in job.descriptors and not job.rescued

    def _rescue(self, job: MindedJob) -> None:
        ours = self._is_our_child(job.view.leader_pid)
        if ours:
            self._leaders[job.view.leader_pid] = job.job_id
        job.rescued = True
        mine, theirs = packets.pair()
        self.spawner.rescue(job.directory, theirs.fileno(), Rescue(job.descriptors, ours))
        theirs.close()
        self._attend(job, mine)

    @staticmethod
    def _is_our_child(pid: int) -> bool:
        try:
            look_at_exit(pid)
        except ChildProcessError:
            return False
        return pid > 0

    def _send_word(self, job: MindedJob) -> None:
        """Tell a rescue shim how the leader ended, if it has and we are the parent."""
        pid = job.view.leader_pid
        if self._leaders.get(pid) != job.job_id:
            return
        exit_ = look_at_exit(pid)
        if exit_ is not None and job.control is not None:
            packets.send(job.control, _word(job.job_id, exit_))

    def _let_leader_go(self, job: MindedJob) -> None:
        if self._leaders.pop(job.view.leader_pid, None) is not None:
            os.waitpid(job.view.leader_pid, os.WNOHANG)

    def _give_up(self, job: MindedJob, reason: str) -> None:
        if self._has_begun(job):
            self._tell(JobGone(job.job_id, rebooted=False))
        else:
            self._tell(Refused(job.job_id, "Launch", reason))
        self._forget(job)

    def _forget(self, job: MindedJob) -> None:
        self._let_leader_go(job)
        job.replace_descriptors({})
        self._jobs.pop(job.job_id, None)
        self._unreachable.discard(job.job_id)

    # Children.

    def leader_of(self, pid: int) -> bool:
        """Say whether a child that ended is a leader whose record does not stand yet.

        Called before anything unknown is reaped; what its shim said before it was killed may
        still be unread, so that is read first.
        """
        if pid in self._leaders:
            self._send_word(self._jobs[self._leaders[pid]])
            return True
        for job in list(self._jobs.values()):
            if job.view.leader_pid in (0, pid) and job.control is not None:
                self.hear(job)
        return pid in self._leaders or any(
            job.view.leader_pid == pid and not job.recorded for job in self._jobs.values()
        )


def _word(job_id: int, exit_: Exit) -> LeaderExited:
    usage: Mapping[str, float] = {
        "cpu_user_s": exit_.usage.cpu_user_s,
        "cpu_system_s": exit_.usage.cpu_system_s,
    }
    return LeaderExited(
        job_id=job_id,
        wait_status=exit_.wait_status,
        peak_memory_bytes=exit_.usage.peak_memory_bytes,
        **usage,
    )
