"""The jobs a warden minds."""

from __future__ import annotations

import os
from _socket import socket as c_socket
from dataclasses import dataclass, field

from agentd.core.contract import JobView, Launch, Message, Resume, Stop
from agentd.core.guard.model import Rules
from agentd.core.job import JobSpec, OutputKind, ProcessId


@dataclass(slots=True)
class MindedJob:
    """One job: its shim's control socket and what keeps the job alive without the shim."""

    job_id: int
    directory: str
    view: JobView
    output: OutputKind = OutputKind.MERGED
    #: None while no shim was forked yet, or while an adopted one cannot be reached.
    control: c_socket | None = None
    #: Read ends by name; the job sees no end of file and no hang-up while we hold them.
    descriptors: dict[str, int] = field(default_factory=dict)
    #: Orders that came before there was a shim to take them.
    pending: list[Message] = field(default_factory=list)
    #: How often a shim was asked for.
    launches: int = 0
    #: Who minds it, once that one has spoken.
    shim: ProcessId | None = None
    #: A stop that no shim has confirmed yet.
    stop: Stop | None = None
    #: The same of a resume: the shim that had it may have been killed before it was read.
    resume: Resume | None = None
    #: How often the job was looked at since a shim last spoke.
    looks: int = 0
    #: Whether the present shim is a rescue shim.
    rescued: bool = False
    #: The cgroup of its own that the kernel bills and limits; empty: none.
    cgroup: str = ""
    #: What the guard has to know; None until somebody has read the spec of an adopted job.
    rules: Rules | None = None
    recorded: bool = False

    def replace_descriptors(self, new: dict[str, int]) -> None:
        """Close what we held and hold these."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = new


def starting_view(job_id: int) -> JobView:
    """Return the view of a job that no shim has spoken for yet."""
    return JobView(job_id, "starting")


def rules_of(order: Launch) -> Rules:
    """Return what a launch order says of the job's memory."""
    limit_bytes = order.mem_limit_bytes or None
    return Rules(order.job_id, limit_bytes, order.mem_action, order.preemptible, order.grace_s)


def rules_from(spec: JobSpec) -> Rules:
    """Return the same from the job's spec, for one that was launched by another warden."""
    return Rules(spec.id, spec.mem_limit_bytes, spec.mem_action, spec.preemptible, spec.grace_s)
