"""A shim's life: take the lock, fork the leader (or take over), mind the job, leave the record.

What may never happen twice is guarded by two files: a job with an exit record is over, and a
job whose pidfile names a leader has begun.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from _socket import socket as c_socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from agentd.core.contract import Adopted
from agentd.core.job import Cause, Lost, OutputKind
from agentd.errors import AgentError, RecordCorruptError
from agentd.shim import leader, plan
from agentd.shim.channels import ReadEnds, find_again, open_channels
from agentd.shim.control import Control
from agentd.shim.leader import Birth, Origin
from agentd.shim.leaderwatch import ForeignLeader, OwnLeader
from agentd.shim.minder import Minder, Parts
from agentd.shim.start import StartTalk
from agentd.shim.tree import FoundTree, OwnTree
from agentd.system import jobdir, locks, process
from agentd.system.clock import wall_ns
from agentd.system.crashpoint import reach
from agentd.system.files import keep_only
from agentd.system.prctl import become_subreaper
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
    """What a new shim is forked with."""

    directory: str
    #: Descriptor of its line to the warden.
    control: int
    origin: Origin
    #: What to open for a new job, or what to take over of one that has begun.
    work: OutputKind | Rescue


def run(assignment: Assignment) -> NoReturn:
    """Be the shim of one job until its end. Never returns."""
    status = _FAILED
    try:
        _run(assignment)
        status = 0
    except AgentError as error:
        print(f"shim of {assignment.directory}: {error}", file=sys.stderr)  # noqa: T201  # its only log
    except BaseException:  # noqa: BLE001  # the stack below belongs to somebody else
        traceback.print_exc()
    finally:
        os._exit(status)


def _run(assignment: Assignment) -> None:
    reach("shim.forked")
    os.umask(0o077)
    os.chdir(assignment.directory)
    become_subreaper()
    wakeup, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    work = assignment.work
    taken = tuple(work.descriptors.values()) if isinstance(work, Rescue) else ()
    keep_only((assignment.control, wakeup, wakeup_write, *taken))
    lock = os.open(jobdir.PID, os.O_RDWR | os.O_CLOEXEC)
    control = c_socket(fileno=assignment.control)
    control.setblocking(False)
    minder = (
        _take_over(work, lock, control)
        if isinstance(work, Rescue)
        else _start(work, lock, control, assignment.origin)
    )
    if minder is not None:
        minder.mind(wakeup)


def _start(kind: OutputKind, lock: int, control: c_socket, origin: Origin) -> Minder:
    if not locks.try_lock(lock):
        raise AgentError("another shim minds this job; nothing was started")
    if os.path.exists(jobdir.EXIT) or os.pread(lock, jobdir.PID_ROOM_BYTES, 0).strip():
        raise AgentError("this job has begun before; nothing was started")
    reach("shim.locked")
    ends, job_ends = open_channels(kind)
    shim_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        leader.become(Birth(shim_pid, lock, control, job_ends, ends, origin))
    reach("shim.leader_forked")
    job_ends.close()
    talk = StartTalk(ends.start)
    told = talk.hear_plan()
    if told is None:
        raise AgentError("the leader ended before it began")
    reach("shim.plan_heard")
    talk.open_gate()
    reach("shim.gate_opened")
    epoll = select.epoll()
    parts = Parts(ends, Control(epoll, control), epoll, OwnLeader(pid), OwnTree(pid), talk)
    return Minder(told, parts)


def _take_over(rescue: Rescue, lock: int, control: c_socket) -> Minder | None:
    # The killed shim's lock lives on in a leader that has not yet made its pidfile durable.
    locks.wait_for_lock(lock)
    record = jobdir.read_pid(".")
    if record is None or jobdir.read_exit(".") is not None:
        return None
    try:
        spec = jobdir.read_spec(".")
    except RecordCorruptError:
        spec = None
    if spec is None:
        _record_as_lost(record)
        return None
    reach("rescue.locked")
    named = rescue.descriptors
    tree = FoundTree(spec.uid, record.leader)
    ends = (
        ReadEnds(named.get("out", -1), named.get("err", -1), named.get("start", -1))
        if named
        else find_again(tree.members(), record)
    )
    talk = None
    if ends.start >= 0:
        talk = StartTalk(ends.start)
        talk.open_gate()
    epoll = select.epoll()
    parts = Parts(
        ends,
        Control(epoll, control),
        epoll,
        ForeignLeader(record.leader, parent_is_warden=rescue.parent_is_warden),
        tree,
        talk,
    )
    minder = Minder(plan.make(spec, record, os.getpid()), parts)
    minder.resume()
    parts.control.send(control, Adopted(minder.view(), tuple(ends.named())), ends.named())
    return minder


def _record_as_lost(record: PidRecord) -> None:
    """Say that nobody can mind this job; its leader stays visible if it runs."""
    reason = "its shim was killed, and without a readable spec.json no other can mind it"
    survivors = (record.leader.pid,) if process.is_alive(record.leader) else ()
    lost = Lost(wall_ns(), Cause.UNKNOWN, reason, record.started_at_ns, survivors)
    jobdir.write_exit(".", lost)
