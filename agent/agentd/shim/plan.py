"""What a shim must know of its job: a few numbers, told by the leader before it is executed.

The leader's process reads the spec, because exec(2) throws away whatever memory that took;
the shim's memory stays as long as the job does.
"""

from __future__ import annotations

import os

from agentd.core.value import Value
from agentd.shim import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_S = 1_000_000_000
_NO_TIMEOUT = -1
_UNKNOWN = -1
_MARK = b"plan"


class Plan(Value):
    """One job that has begun."""

    __slots__ = (  # noqa: RUF023  # as in __init__
        "job_id",
        "leader_pid",
        "leader_start_ticks",
        "started_at_ns",
        "started_boot_ns",
        "grace_ns",
        "timeout_ns",
        "segment_bytes",
        "retention_bytes",
        "host_oom_kills",
        "cgroup",
        "announcement",
    )

    def __init__(  # noqa: PLR0913, PLR0917  # its fields
        self,
        job_id: int,
        leader_pid: int,
        leader_start_ticks: int,
        started_at_ns: int,
        started_boot_ns: int,
        grace_ns: int,
        timeout_ns: int,
        segment_bytes: int,
        retention_bytes: int,
        host_oom_kills: int,
        cgroup: str,
        announcement: bytes,
    ) -> None:
        self.job_id = job_id
        self.leader_pid = leader_pid
        self.leader_start_ticks = leader_start_ticks
        self.started_at_ns = started_at_ns
        self.started_boot_ns = started_boot_ns
        self.grace_ns = grace_ns
        #: -1: none.
        self.timeout_ns = timeout_ns
        self.segment_bytes = segment_bytes
        self.retention_bytes = retention_bytes
        #: How many processes the kernel had killed for want of memory when it began; -1: unknown.
        self.host_oom_kills = host_oom_kills
        #: The job's own, whether its leader could make it or not; empty: none.
        self.cgroup = cgroup
        #: The JobStarted message, ready to be sent: encoding it would cost the shim memory.
        self.announcement = announcement

    @property
    def ends_at_boot_ns(self) -> int | None:
        """CLOCK_BOOTTIME at which the timeout is over, if there is one."""
        if self.timeout_ns == _NO_TIMEOUT:
            return None
        return self.started_boot_ns + self.timeout_ns

    def encode(self) -> bytes:
        """Return it as a packet: numbers, then the cgroup, a NUL and the announcement."""
        numbers = [b"%d" % getattr(self, name) for name in self.__slots__[:_NUMBERS]]
        return b" ".join((_MARK, *numbers, os.fsencode(self.cgroup) + b"\0" + self.announcement))


#: Those before the texts.
_NUMBERS = len(Plan.__slots__) - 2


def is_plan(packet: bytes) -> bool:
    """Say whether a packet is a plan, and no report of a step that failed."""
    return packet.startswith(_MARK)


def decode(packet: bytes) -> Plan | None:
    """Return the plan, or None if the packet is something else."""
    if not is_plan(packet):
        return None
    _, *words, texts = packet.split(b" ", _NUMBERS + 1)
    job, leader, ticks, started, booted, grace, timeout, segment, retention, kills = map(int, words)
    cgroup, _, announcement = texts.partition(b"\0")
    return Plan(
        job,
        leader,
        ticks,
        started,
        booted,
        grace,
        timeout,
        segment,
        retention,
        kills,
        os.fsdecode(cgroup),
        announcement,
    )


def make(spec: Mapping[str, Any], record: Mapping[str, Any], shim_pid: int) -> Plan:
    """Return the plan of a job that has begun: of its spec.json and its pidfile."""
    leader_pid, leader_start_ticks = record["leader"]["pid"], record["leader"]["start_ticks"]
    started_at_ns, timeout_s = record["started_at_ns"], spec["timeout_s"]
    return Plan(
        spec["id"],
        leader_pid,
        leader_start_ticks,
        started_at_ns,
        record["started_boot_ns"],
        int(spec["grace_s"] * _S),
        _NO_TIMEOUT if timeout_s is None else int(timeout_s * _S),
        spec["log_segment_bytes"],
        spec["log_retention_bytes"],
        record.get("host_oom_kills", _UNKNOWN),
        record.get("cgroup", ""),
        words.started(spec["id"], started_at_ns, leader_pid, leader_start_ticks, shim_pid),
    )
