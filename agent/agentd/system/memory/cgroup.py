"""One job's memory, by the cgroup of its own that it runs in (cgroups version 2)."""

from __future__ import annotations

import time

from agentd.core.guard.model import Charge, JobSample
from agentd.system.memory.fields import number, number_field
from agentd.system.memory.kept import Descriptors, KeptFile

_STAT_BYTES = 1 << 14


class CgroupGauge:
    """Measures a job as the kernel bills it, however many processes (admin-guide/cgroup-v2.rst).

    `resident`: memory.current and memory.swap.current, file cache included, so an upper bound.
    `charge`: anonymous and shared memory (`anon`, `shmem` of memory.stat) and swap. Pages count
    where they were touched first. What is freeable is what is held, though files in a tmpfs stay
    until they are removed.
    """

    def __init__(self, job_id: int, path: str, descriptors: Descriptors | None = None) -> None:
        """`path`: the job's cgroup directory."""
        self._job_id = job_id
        self._files = descriptors or Descriptors()
        self._path = path
        self._current = KeptFile(f"{path}/memory.current", self._files)
        self._swap = KeptFile(f"{path}/memory.swap.current", self._files)
        self._stat = KeptFile(f"{path}/memory.stat", self._files)
        self._pids = KeptFile(f"{path}/pids.current", self._files)
        self._last_bytes = 0

    def resident(
        self,
        at_ns: int,
        *,
        has_swap: bool = True,
        eager: bool = False,  # noqa: ARG002  # as JobGauge has it: here no process can be missed
    ) -> JobSample:
        """Return an upper bound; without `has_swap` swap is not looked at."""
        began_ns = time.monotonic_ns()
        upper_bytes = self._upper_bytes(has_swap=has_swap)
        return self._sample(at_ns, began_ns, upper_bytes, None)

    def charge(self, at_ns: int, *, has_swap: bool = True) -> JobSample:
        """Return what it really holds as well; no charge if the kernel does not say."""
        began_ns = time.monotonic_ns()
        upper_bytes = self._upper_bytes(has_swap=has_swap)
        held_bytes = self._held_bytes(has_swap=has_swap)
        charge = None if held_bytes is None else Charge(held_bytes, held_bytes)
        return self._sample(at_ns, began_ns, upper_bytes, charge)

    def peak_bytes(self) -> int | None:
        """Return the most it ever had, file cache included; None before Linux 5.19."""
        return self._number("memory.peak")

    def limit_bytes(self) -> int | None:
        """Return memory.max; None: no limit, or not to be read."""
        return self._number("memory.max")

    def oom_kills(self) -> int | None:
        """Return how many of its processes the kernel has killed at a limit of memory."""
        try:
            return number_field(self._files.read(f"{self._path}/memory.events"), b"oom_kill ")
        except OSError:
            return None

    def close(self) -> None:
        """Close what is kept open."""
        for file in (self._current, self._swap, self._stat, self._pids):
            file.close()

    def _upper_bytes(self, *, has_swap: bool) -> int | None:
        current_bytes = _read(self._current)
        if current_bytes is None:
            return None
        self._last_bytes = current_bytes + self._swap_bytes(has_swap=has_swap)
        return self._last_bytes

    def _held_bytes(self, *, has_swap: bool) -> int | None:
        try:
            data = self._stat.read(_STAT_BYTES)
        except OSError:
            self._stat.close()
            return None
        parts = [number_field(data, name) for name in (b"anon ", b"shmem ")]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return sum(known) + self._swap_bytes(has_swap=has_swap)

    def _swap_bytes(self, *, has_swap: bool) -> int:
        # Without swap accounting there is no such file, and nothing can be said of it.
        return (_read(self._swap) or 0) if has_swap else 0

    def _sample(
        self, at_ns: int, began_ns: int, upper_bytes: int | None, charge: Charge | None
    ) -> JobSample:
        return JobSample(
            self._job_id,
            at_ns,
            self._last_bytes if upper_bytes is None else upper_bytes,
            charge,
            _read(self._pids) or 0,
            cost_ns=time.monotonic_ns() - began_ns,
            is_partial=upper_bytes is None,
        )

    def _number(self, name: str) -> int | None:
        try:
            return number(self._files.read(f"{self._path}/{name}"))
        except OSError:
            return None


def _read(file: KeptFile) -> int | None:
    try:
        return number(file.read())
    except OSError:
        file.close()
        return None
