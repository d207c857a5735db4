"""A shim's life: take the lock, start the leader (or take over), mind the job, leave the record.

What may never happen twice is guarded by two files: a job with an exit record is over, and a
job whose pidfile names a leader has begun. Between "leader forked" and "gate opened" the
pidfile is made durable; everything before that can be repeated, nothing after it is.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from agentd.core.contract import Adopted
from agentd.core.job import FileOutput, JobSpec, ProcessId
from agentd.errors import AgentError
from agentd.shim.channels import ReadEnds, close_job_ends, open_channels
from agentd.shim.control import Control
from agentd.shim.leader import Origin, fork_leader
from agentd.shim.leaderwatch import ForeignLeader, OwnLeader
from agentd.shim.minder import Begun, Minder
from agentd.shim.tree import FoundTree, OwnTree
from agentd.system import jobdir, locks, process
from agentd.system.clock import boot_id, boot_ns, wall_ns
from agentd.system.crashpoint import reach
from agentd.system.files import keep_only
from agentd.system.prctl import become_subreaper, set_name
from agentd.system.records import PidRecord

_FAILED = 70


@dataclass(frozen=True, slots=True)
class Rescue:
    """What a rescue shim takes over from one that was killed."""

    #: The read ends the warden kept; empty if none was left.
    descriptors: Mapping[str, int]
    #: Whether the warden inherited the leader and will send word of its end.
    parent_is_warden: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the warden hands to a new shim."""

    job_id: int
    directory: str
    control: socket.socket
    origin: Origin
    #: None: start the job.
    rescue: Rescue | None


def run(assignment: Assignment) -> NoReturn:
    """Be the shim of one job until its end. Never returns."""
    status = _FAILED
    try:
        _run(assignment)
        status = 0
    except AgentError as error:
        print(f"shim of job {assignment.job_id}: {error}", file=sys.stderr)  # noqa: T201  # its only log
    except BaseException:  # noqa: BLE001  # the stack below belongs to the warden
        traceback.print_exc()
    finally:
        os._exit(status)


def _run(assignment: Assignment) -> None:
    reach("shim.forked")
    os.umask(0o077)
    os.chdir(assignment.directory)
    set_name("agentd-shim")
    become_subreaper()
    wakeup = _take_signals()
    taken = tuple(assignment.rescue.descriptors.values()) if assignment.rescue else ()
    keep_only((assignment.control.fileno(), *wakeup, *taken))
    lock = os.open(jobdir.PID, os.O_RDWR | os.O_CLOEXEC)
    spec = jobdir.read_spec(".")
    if spec is None:
        raise AgentError("spec.json is missing; nothing was started")
    epoll = select.epoll()
    epoll.register(wakeup[0], select.EPOLLIN)
    if assignment.rescue is None:
        minder = _start(assignment, spec, lock, epoll)
    else:
        minder = _take_over(assignment, assignment.rescue, spec, lock, epoll)
    if minder is not None:
        minder.mind(wakeup[0])


def _take_signals() -> tuple[int, int]:
    """Ignore what a terminal or a logout may send; wake up for children."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    return read_end, write_end


def _start(assignment: Assignment, spec: JobSpec, lock: int, epoll: select.epoll) -> Minder | None:
    if not locks.try_lock(lock):
        raise AgentError("another shim minds this job; nothing was started")
    if jobdir.read_exit(".") is not None or jobdir.read_pid(".") is not None:
        raise AgentError("this job has begun before; nothing was started")
    reach("shim.locked")
    ends, job_ends = open_channels(spec)
    control = Control(epoll, assignment.control)
    out_base, err_base = _file_bases(spec)
    pid, gate = fork_leader(spec, job_ends, assignment.origin)
    reach("shim.leader_forked")
    close_job_ends(job_ends)
    leader = process.identify(pid)
    if leader is None:
        raise AgentError("the leader vanished before it began")
    record = PidRecord(
        boot_id(), _myself(), leader, wall_ns(), boot_ns(), out_base, err_base
    )
    minder = Minder(
        Begun(spec, record, executed=False), ends, control, epoll, OwnLeader(pid), OwnTree(pid)
    )
    # Before the job can write a byte or end, the warden must be able to go on without us.
    control.send(assignment.control, Adopted(minder.view(), tuple(ends.named())), ends.named())
    jobdir.write_pid(lock, record)
    reach("shim.pid_written")
    os.write(gate, b"g")
    os.close(gate)
    reach("shim.gate_opened")
    return minder


def _file_bases(spec: JobSpec) -> tuple[int, int]:
    """Return the sizes of the user's files before an append: byte 0 of the job's log."""
    if not isinstance(spec.output, FileOutput) or not spec.output.append:
        return 0, 0
    return _size(spec, spec.output.stdout_path), _size(spec, spec.output.stderr_path)


def _size(spec: JobSpec, path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(os.path.join(spec.cwd, path)).st_size
    except OSError:
        return 0


def _myself() -> ProcessId:
    me = process.identify(os.getpid())
    if me is None:
        raise AgentError("/proc is not mounted")
    return me


def _take_over(
    assignment: Assignment, rescue: Rescue, spec: JobSpec, lock: int, epoll: select.epoll
) -> Minder | None:
    # The killed shim's lock may live on for a moment in a leader that still waits at the gate.
    locks.wait_for_lock(lock)
    record = jobdir.read_pid(".")
    if record is None or jobdir.read_exit(".") is not None:
        return None
    reach("rescue.locked")
    named = rescue.descriptors
    ends = ReadEnds(named.get("out", -1), named.get("err", -1), named.get("status", -1))
    control = Control(epoll, assignment.control)
    watch = ForeignLeader(record.leader, rescue.parent_is_warden)
    minder = Minder(
        Begun(spec, record, executed="status" not in named),
        ends,
        control,
        epoll,
        watch,
        FoundTree(spec.uid, record.leader),
    )
    control.send(assignment.control, Adopted(minder.view(), tuple(ends.named())), ends.named())
    return minder

