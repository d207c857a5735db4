"""A shim's life: take the lock, fork the leader (or take over), mind the job, leave the record.

What may never happen twice is guarded by two files: a job with an exit record is over, and a
job whose pidfile names a leader has begun.
"""

from __future__ import annotations

import os
import select
import sys
from _socket import socket as c_socket

from agentd.core.value import Value
from agentd.errors import AgentError, RecordCorruptError
from agentd.shim import ending, leader, plan, records
from agentd.shim.channels import ReadEnds, find_again, open_channels
from agentd.shim.control import Control
from agentd.shim.leader import Birth
from agentd.shim.leaderwatch import ForeignLeader, OwnLeader
from agentd.shim.minder import Minder
from agentd.shim.start import StartTalk
from agentd.shim.tree import FoundTree, OwnTree
from agentd.system import jobfiles, locks, proc
from agentd.system.complaint import complain
from agentd.system.crashpoint import reach
from agentd.system.kernel import become_subreaper
from agentd.system.proc import Process
from agentd.system.signals import set_wakeup_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from agentd.shim.leader import Origin

_FAILED = 70


class NewJob(Value):
    """What a shim begins: a job of which nothing has run."""

    __slots__ = ("cgroup", "kind", "origin")

    def __init__(self, kind: str, origin: Origin, cgroup: str = "") -> None:
        """Begin.

        Args:
            kind: A core.job.OutputKind: what to open before more is known of the job.
            origin: What the job inherits from the agent.
            cgroup: The delegated one below which the job gets its own; empty: none.

        """
        self.kind = kind
        self.origin = origin
        self.cgroup = cgroup


class Rescue(Value):
    """What a rescue shim takes over from one that was killed."""

    __slots__ = ("descriptors", "parent_is_warden")

    def __init__(self, descriptors: Mapping[str, int], parent_is_warden: bool) -> None:  # noqa: FBT001  # a field
        """Take over.

        Args:
            descriptors: The read ends the warden kept; empty if none was left.
            parent_is_warden: Whether the warden inherited the leader and will send word of
                its end.

        """
        self.descriptors = descriptors
        self.parent_is_warden = parent_is_warden


def run(directory: str, control: int, work: NewJob | Rescue) -> NoReturn:
    """Be the shim of one job until its end. Never returns.

    `control` is its line to the warden; besides, 0 to 2 and those of a rescue it holds nothing.
    """
    status = _FAILED
    try:
        _run(directory, control, work)
        status = 0
    except AgentError as error:
        complain(f"shim of {directory}: {error}")
    except BaseException:  # noqa: BLE001  # the stack below belongs to somebody else
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _run(directory: str, control: int, work: NewJob | Rescue) -> None:
    reach("shim.forked")
    os.umask(0o077)
    os.chdir(directory)
    become_subreaper()
    mind(control, work)


def mind(control: int, work: NewJob | Rescue) -> None:
    """Mind the job of the current directory from its beginning, or from now, to its end."""
    wakeup, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    lock = os.open(jobfiles.PID, os.O_RDWR | os.O_CLOEXEC)
    warden = c_socket(fileno=control)
    warden.setblocking(False)
    if isinstance(work, Rescue):
        minder = _take_over(work, lock, warden)
    else:
        minder = _start(work, lock, warden)
    if minder is not None:
        minder.mind(wakeup)


def _start(job: NewJob, lock: int, warden: c_socket) -> Minder | None:
    if not locks.try_lock(lock):
        raise AgentError("another shim minds this job; nothing was started")
    if os.access(jobfiles.EXIT, os.F_OK) or os.pread(lock, jobfiles.PID_ROOM_BYTES, 0).strip():
        raise AgentError("this job has begun before; nothing was started")
    reach("shim.locked")
    ends, job_ends = open_channels(job.kind)
    shim_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        leader.become(Birth(shim_pid, lock, warden, job_ends, ends, job.origin, job.cgroup))
    reach("shim.leader_forked")
    job_ends.close()
    talk = StartTalk(ends.start)
    told = talk.hear_plan()
    if told is None:
        _record_failure(talk)
        return None
    reach("shim.plan_heard")
    talk.open_gate()
    reach("shim.gate_opened")
    epoll = select.epoll()
    control = Control(epoll, warden)
    return Minder(told, ends, control, epoll, OwnLeader(pid), OwnTree(pid), talk)


def _record_failure(talk: StartTalk) -> None:
    """Say what kept the leader from beginning; without its word the job is launched again."""
    error = talk.outcome()
    if error is None:
        raise AgentError("the leader ended before it began")
    jobfiles.write_exit(".", ending.start_failed(error))


def _take_over(rescue: Rescue, lock: int, warden: c_socket) -> Minder | None:
    # The killed shim's lock lives on in a leader that has not yet made its pidfile durable.
    locks.wait_for_lock(lock)
    record = records.read_pid()
    if record is None or records.read(jobfiles.EXIT) is not None:
        return None
    its_leader = Process(**record["leader"])
    try:
        spec = records.read(jobfiles.SPEC)
    except RecordCorruptError:
        spec = None
    if spec is None:
        _record_as_lost(its_leader, record["started_at_ns"])
        return None
    reach("rescue.locked")
    named = rescue.descriptors
    tree = FoundTree(spec["uid"], its_leader)
    ends = (
        ReadEnds(named.get("out", -1), named.get("err", -1), named.get("start", -1))
        if named
        else find_again(tree.members(), record["out_pipe_inode"], record["err_pipe_inode"])
    )
    talk = None
    if ends.start >= 0:
        talk = StartTalk(ends.start)
        talk.open_gate()
    epoll = select.epoll()
    control = Control(epoll, warden)
    watch = ForeignLeader(its_leader, parent_is_warden=rescue.parent_is_warden)
    told = plan.make(spec, record, os.getpid())
    minder = Minder(told, ends, control, epoll, watch, tree, talk)
    minder.resume()
    minder.introduce(warden)
    return minder


def _record_as_lost(its_leader: Process, started_at_ns: int) -> None:
    """Say that nobody can mind this job; its leader stays visible if it runs."""
    reason = "its shim was killed, and without a readable spec.json no other can mind it"
    survivors = [its_leader.pid] if proc.is_alive(its_leader) else []
    jobfiles.write_exit(".", ending.lost(reason, started_at_ns, survivors))
