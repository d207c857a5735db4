"""Every shim of the agent: launched, adopted, rescued."""

from __future__ import annotations

import os
import time
import traceback
from _socket import socket as c_socket
from collections.abc import Callable, Iterator, Mapping
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
    Pause,
    Refused,
    Resume,
    ShimReplaced,
    Stop,
    Sweep,
)
from agentd.errors import RecordCorruptError
from agentd.paths import Paths
from agentd.shim.leader import Origin
from agentd.shim.main import Rescue
from agentd.system import cgroups, jobdir, locks, packets, process
from agentd.system.complaint import complain
from agentd.system.crashpoint import reach
from agentd.system.prctl import Exit, look_at_exit
from agentd.warden import adoption
from agentd.warden.loop import Loop
from agentd.warden.minded import MindedJob, rules_of, starting_view
from agentd.warden.spawner import Spawner

#: A job whose shim was asked for this often and never began is not tried again.
_LAUNCHES_AT_MOST = 20
#: A job nobody minds is looked at again after so long, doubled each time.
_FIRST_LOOK_S = 0.001
_LONGEST_LOOK_S = 5.0
_PHASE_AFTER = {JobPaused: "paused", JobResumed: "running"}


class Shims:
    """The jobs this warden minds and the processes that mind them."""

    def __init__(
        self, paths: Paths, origin: Origin, loop: Loop, tell: Callable[[Message], bool]
    ) -> None:
        """`tell` passes a message to the server, if there is one."""
        self._paths = paths
        self.spawner = Spawner(origin, f"{paths.runtime_dir}/rehearsal")
        self._loop = loop
        self._tell = tell
        self._jobs: dict[int, MindedJob] = {}
        #: When to look at each job that no shim minds, on the monotonic clock.
        self._attention: dict[int, float] = {}
        #: Leaders that became our children; reaped only when their record stands.
        self._leaders: dict[int, int] = {}
        #: Grows whenever a job begins, ends or changes its phase: the guard's view is then old.
        self.revision = 0
        #: A job has begun, or one that may have a limit of its own: the guard is to look soon, or
        #: at once.
        self.has_start = False
        self.has_limited_start = False

    # What the loop asks.

    def due_s(self) -> float | None:
        """Return when to look at a job that no shim minds."""
        return min(self._attention.values(), default=None)

    def run(self) -> None:
        """Look at one job: the guard has its turn between two launches."""
        job_id = min(self._attention, key=self._attention.__getitem__)
        del self._attention[job_id]
        job = self._jobs[job_id]
        try:
            self._engage(job)
        except OSError:
            # Out of descriptors or memory: no reason to lose sight of the job.
            if job.looks == 0:
                complain(traceback.format_exc())
            self._look_again(job)

    def _look_again(self, job: MindedJob) -> None:
        delay_s = min(_FIRST_LOOK_S * 2**job.looks, _LONGEST_LOOK_S)
        job.looks += 1
        self._attention[job.job_id] = time.monotonic() + delay_s

    # What the guard asks.

    def running(self) -> Iterator[MindedJob]:
        """Yield every job of which a process may live."""
        for job in self._jobs.values():
            if job.view.leader_pid and job.view.phase != "starting" and not job.recorded:
                yield job

    def find(self, job_id: int) -> MindedJob | None:
        """Return a job that is minded and not over."""
        job = self._jobs.get(job_id)
        return None if job is None or job.recorded else job

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
        job = MindedJob(job_id, self._paths.job(job_id), view, order.output)
        job.rules = rules_of(order)
        self._jobs[job_id] = job
        self._attention[job_id] = 0.0

    def pass_on(self, job_id: int, order: Message) -> None:
        """Hand an order to the job's shim, now or as soon as there is one."""
        job = self._jobs.get(job_id)
        if job is None or job.recorded:
            self._tell(Refused(job_id, type(order).__name__, "no shim minds this job"))
        else:
            if isinstance(order, Stop):
                job.stop = order
            elif isinstance(order, Resume):
                job.resume = order
            elif isinstance(order, Pause):
                job.resume = None
            job.pending.append(order)
            self._send_pending(job)

    def sweep(self, order: Sweep) -> None:
        """End what a lost job left behind, in a process of its own."""
        self.spawner.sweep(self._paths.job(order.job_id), order.grace_s)

    # Adoption.

    def adopt_all(self) -> None:
        """Take over every job that outlived the last warden."""
        for finding in adoption.look(self._paths):
            directory = self._paths.job(finding.job_id)
            job = MindedJob(finding.job_id, directory, finding.view, finding.output)
            job.cgroup = finding.cgroup
            self._jobs[finding.job_id] = job
            self._attention[finding.job_id] = 0.0
        self.revision += 1
        self.has_limited_start = True

    @property
    def is_waiting_for_answers(self) -> bool:
        """Whether an adopted shim has not yet said what it minds."""
        return any(not job.descriptors and not job.rescued for job in self._jobs.values())

    # A job that no shim minds, as far as we know.

    def _engage(self, job: MindedJob) -> None:
        """See to it that somebody minds the job, or that it is over."""
        if locks.is_locked(f"{job.directory}/{jobdir.PID}") is not False:
            # A shim that may live ("cannot tell" too) is never replaced.
            self._reach(job)
        elif job.shim is not None and process.is_alive(job.shim):
            # A dying process closes its files before its children get their new parent
            # (do_exit() in kernel/exit.c); as a zombie it has none left.
            self._look_again(job)
        elif job.recorded or os.path.exists(f"{job.directory}/{jobdir.EXIT}"):
            self._finish(job)
        else:
            reach("warden.shim_gone")
            self._replace_shim(job)

    def _reach(self, job: MindedJob) -> None:
        control = adoption.connect(job.directory)
        if control is None:
            self._look_again(job)
        else:
            self._attend(job, control)

    def _replace_shim(self, job: MindedJob) -> None:
        try:
            has_begun = jobdir.read_pid(job.directory) is not None
        except RecordCorruptError:
            # Whether it has begun is unknown, so it is not started again.
            self._tell(JobGone(job.job_id, rebooted=False))
            self._forget(job)
            return
        if has_begun:
            self._rescue(job)
        else:
            self._launch(job)

    def _finish(self, job: MindedJob) -> None:
        if not job.recorded:
            # The shim was killed between the rename and the word about it.
            job.recorded = True
            self._tell(JobRecorded(job.job_id))
        self._forget(job)

    def _launch(self, job: MindedJob) -> None:
        """Have the job started; nothing of it has run."""
        if job.launches >= _LAUNCHES_AT_MOST:
            reason = "its shim ended before the program began, several times"
            self._tell(Refused(job.job_id, Launch.__name__, reason))
            self._forget(job)
            return
        reach("warden.before_spawn")
        job.rescued = False
        job.replace_descriptors({})
        self._leaders.pop(job.view.leader_pid, None)
        job.view = starting_view(job.job_id)
        job.shim = None
        ours, theirs = packets.pair()
        taken = self.spawner.start(job.directory, theirs.fileno(), job.output)
        theirs.close()
        if taken:
            base = self.spawner.cgroup
            job.cgroup = cgroups.job_path(base, job.job_id) if base else ""
            reach("warden.spawned")
            job.launches += 1
            self._attend(job, ours)
        else:
            ours.close()
            self._look_again(job)

    def _attend(self, job: MindedJob, control: c_socket) -> None:
        job.control = control
        self._attention.pop(job.job_id, None)
        self._loop.watch(control.fileno(), lambda _events: self.hear(job))
        self._send_pending(job)

    def _send_pending(self, job: MindedJob) -> None:
        while job.pending and job.control is not None:
            if not packets.send(job.control, job.pending[0]):
                return
            del job.pending[0]

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
                self._look_again(job)
                return
            message, descriptors = received
            job.looks = 0
            self._heed(job, message, descriptors)
            self._send_pending(job)

    def _heed(self, job: MindedJob, message: Message | None, descriptors: list[int]) -> None:
        match message:
            case Adopted():
                self.revision += 1
                first_word = job.view.shim_pid != message.view.shim_pid and job.rescued
                job.view = message.view
                job.shim = process.identify(message.view.shim_pid)
                job.replace_descriptors(dict(zip(message.descriptors, descriptors, strict=False)))
                if job.rescued:
                    self._send_word(job)
                    if first_word:
                        self._tell(ShimReplaced(job.job_id, message.view.shim_pid))
                return
            case JobStarted():
                job.view = replace(job.view, phase="running")
                self._drop_start(job)
                self.has_start = True
                self.has_limited_start |= job.rules is None or job.rules.limit_bytes is not None
            case JobPaused() | JobResumed():
                job.view = replace(job.view, phase=_PHASE_AFTER[type(message)])
                if isinstance(message, JobResumed):
                    job.resume = None
            case JobStopping():
                job.stop = None
                job.view = replace(job.view, phase="stopping", cause=message.cause)
            case JobRecorded():
                job.recorded = True
                reach("warden.recorded")
                self._let_leader_go(job)
            case _:
                return
        self.revision += 1
        self._tell(message)

    @staticmethod
    def _drop_start(job: MindedJob) -> None:
        descriptor = job.descriptors.pop("start", None)
        if descriptor is not None:
            os.close(descriptor)

    # A shim that was killed.

    def _rescue(self, job: MindedJob) -> None:
        ours = self._is_our_child(job.view.leader_pid)
        if ours:
            self._leaders[job.view.leader_pid] = job.job_id
        job.rescued = True
        mine, theirs = packets.pair()
        taken = self.spawner.rescue(job.directory, theirs.fileno(), Rescue(job.descriptors, ours))
        theirs.close()
        if taken:
            for order in (job.resume, job.stop):
                # The killed shim may have had it in its socket and never read it.
                if order is not None and order not in job.pending:
                    job.pending.insert(0, order)
            self._attend(job, mine)
        else:
            mine.close()
            self._look_again(job)

    @staticmethod
    def _is_our_child(pid: int) -> bool:
        if pid == 0:
            return False
        try:
            look_at_exit(pid)
        except ChildProcessError:
            return False
        return True

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

    def _forget(self, job: MindedJob) -> None:
        self._let_leader_go(job)
        job.replace_descriptors({})
        self._jobs.pop(job.job_id, None)
        self._attention.pop(job.job_id, None)
        self.revision += 1

    # Children.

    def leader_of(self, pid: int) -> bool:
        """Say whether a child that ended is a leader whose record does not stand yet.

        Called before anything unknown is reaped; what its shim said before it was killed may
        still be unread, so that is read first.
        """
        if pid in self._leaders:
            job_of_leader = self._jobs.get(self._leaders[pid])
            if job_of_leader is None:
                del self._leaders[pid]
                return False
            self._send_word(job_of_leader)
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
