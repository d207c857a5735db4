"""What a shim must know of its job: a few numbers, told by the leader before it is executed.

The leader's process reads the spec, because exec(2) throws away whatever memory that took;
the shim's memory stays as long as the job does.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.contract import JobStarted, encode
from agentd.core.job import JobSpec, ProcessId
from agentd.system.records import PidRecord

_S = 1_000_000_000
_NO_TIMEOUT = -1
_MARK = b"plan"


@dataclass(frozen=True, slots=True)
class Plan:
    """One job that has begun."""

    job_id: int
    leader_pid: int
    leader_start_ticks: int
    started_at_ns: int
    started_boot_ns: int
    grace_ns: int
    #: -1: none.
    timeout_ns: int
    segment_bytes: int
    retention_bytes: int
    #: The JobStarted message, ready to be sent: encoding it would cost the shim memory.
    announcement: bytes

    @property
    def leader(self) -> ProcessId:
        """Who leads the job."""
        return ProcessId(self.leader_pid, self.leader_start_ticks)

    @property
    def ends_at_boot_ns(self) -> int | None:
        """CLOCK_BOOTTIME at which the timeout is over, if there is one."""
        if self.timeout_ns == _NO_TIMEOUT:
            return None
        return self.started_boot_ns + self.timeout_ns

    def encode(self) -> bytes:
        """Return it as a packet: numbers, then the announcement."""
        numbers = [str(getattr(self, name)) for name in type(self).__slots__[:-1]]
        return b" ".join((_MARK, *(number.encode() for number in numbers), self.announcement))


def decode(packet: bytes) -> Plan | None:
    """Return the plan, or None if the packet is something else."""
    mark, *words = packet.split(b" ", len(Plan.__slots__))
    if mark != _MARK:
        return None
    *numbers, announcement = words
    job, leader, ticks, started, booted, grace, timeout, segment, retention = map(int, numbers)
    return Plan(
        job, leader, ticks, started, booted, grace, timeout, segment, retention, announcement
    )


def make(spec: JobSpec, record: PidRecord, shim_pid: int) -> Plan:
    """Return the plan of a job that has begun."""
    return Plan(
        job_id=spec.id,
        leader_pid=record.leader.pid,
        leader_start_ticks=record.leader.start_ticks,
        started_at_ns=record.started_at_ns,
        started_boot_ns=record.started_boot_ns,
        grace_ns=int(spec.grace_s * _S),
        timeout_ns=_NO_TIMEOUT if spec.timeout_s is None else int(spec.timeout_s * _S),
        segment_bytes=spec.log_segment_bytes,
        retention_bytes=spec.log_retention_bytes,
        announcement=encode(
            JobStarted(
                spec.id,
                record.started_at_ns,
                record.leader.pid,
                record.leader.start_ticks,
                shim_pid,
            )
        ),
    )
