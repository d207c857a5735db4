"""One job under the guard's eyes: its processes and what measures them."""

from __future__ import annotations

import os

from agentd.core.guard.model import JobSample
from agentd.system.memory import leftovers
from agentd.system.memory.cgroup import CgroupGauge
from agentd.system.memory.jobs import JobGauge
from agentd.system.memory.tree import Census
from agentd.warden.guard.tree import Freezing, MindedTree
from agentd.warden.minded import MindedJob


class Ward:
    """One job; its gauge is made at the first look."""

    def __init__(self, job: MindedJob, census: Census) -> None:
        """`census` is what all gauges share."""
        self.job_id = job.job_id
        self.directory = job.directory
        self.job = job
        self.tree = MindedTree(job)
        #: Under way while the guard measures it; None: not frozen for that.
        self.freezing: Freezing | None = None
        #: Files in /dev/shm that its processes had in use when that was last looked at.
        self.shared_files: frozenset[str] = frozenset()
        self._census = census
        self._gauge: CgroupGauge | JobGauge | None = None

    def resident(self, at_ns: int, *, has_swap: bool, eager: bool) -> JobSample:
        """Return the upper bound of what it holds."""
        return self._ready().resident(at_ns, has_swap=has_swap, eager=eager)

    def charge(self, at_ns: int, *, has_swap: bool) -> JobSample:
        """Return what it really holds as well."""
        return self._ready().charge(at_ns, has_swap=has_swap)

    def _ready(self) -> CgroupGauge | JobGauge:
        gauge = self._gauge
        if gauge is None:
            gauge = self._gauge = self._make()
        if isinstance(gauge, JobGauge):
            gauge.root = self.tree.root
        return gauge

    def _make(self) -> CgroupGauge | JobGauge:
        path = self.job.cgroup
        if path and os.path.isdir(path):
            return CgroupGauge(self.job_id, path, self._census.descriptors)
        return JobGauge(self.job_id, self.tree.everyone, self._census)

    def note_shared_files(self) -> None:
        """Add to what is known of its files in memory."""
        self.shared_files |= leftovers.attributed(self.tree.everyone())

    def start_anew(self) -> None:
        """Forget what is being measured: the job has changed since that began."""
        if isinstance(self._gauge, JobGauge):
            self._gauge.start_anew()

    def close(self) -> None:
        """Let go of what the gauge keeps open."""
        if self._gauge is not None:
            self._gauge.close()
            self._gauge = None
