"""The host's memory, or what a container may use of it."""

from __future__ import annotations

import os

from agentd.core.guard.model import HostSample
from agentd.system.memory.fields import kib_field
from agentd.system.memory.kept import Descriptors, KeptFile
from agentd.system.memory.limits import Limit, find_limits

#: The four fields stand in the first lines.
_MEMINFO_BYTES = 2048
_REFIND_NS = 10_000_000_000


class HostGauge:
    """What is left, at a few microseconds a look: one pread of /proc/meminfo, kept open.

    `available_bytes` is MemAvailable: what can be had without swapping, file cache included
    (proc(5)). If a limit of our own memory cgroup, or of one above it, leaves less, then that;
    `total_bytes` is the smallest of MemTotal and these limits.

    What it does not see:

    - The cache of ZFS (ARC) shrinks on demand, and is not in MemAvailable: on such a host less
      seems to be left than there is. Marks have to be lower there, or the ARC limited.
    - Huge pages reserved beforehand (hugetlb) are used memory from the start, used or not.
    - Swap is told of, and not added: memory that is only to be had by swapping is no headroom.
      A cgroup's own limit of swap is not looked at.
    - Limits above the root of a container.
    """

    def __init__(
        self, proc: str = "/proc", root: str = "", descriptors: Descriptors | None = None
    ) -> None:
        """`proc` and `root` (before the mount points that it names): for tests."""
        self._proc, self._root = proc, root
        self._files = descriptors or Descriptors()
        self._meminfo = KeptFile(f"{proc}/meminfo", self._files)
        self._limits: list[Limit] = []
        self._find_at_ns: int | None = None
        self._last: HostSample | None = None

    def read(self, at_ns: int) -> HostSample:
        """Return what there is now.

        Cannot it be read, the last sample comes with its own time: old, and seen to be. Before
        there was one, sysinfo(2) is asked, which counts no cache as available.
        """
        sample = self._read_meminfo(at_ns)
        if sample is None:
            return self._last or _by_sysinfo(at_ns)
        if self._find_at_ns is None or at_ns >= self._find_at_ns:
            self._find(sample.total_bytes, at_ns)
        self._last = self._limited(sample) if self._limits else sample
        return self._last

    def close(self) -> None:
        """Close what is kept open."""
        self._meminfo.close()
        self._forget_limits()

    def _read_meminfo(self, at_ns: int) -> HostSample | None:
        try:
            data = self._meminfo.read(_MEMINFO_BYTES)
        except OSError:
            return None
        total_bytes = kib_field(data, b"MemTotal:")
        available_bytes = kib_field(data, b"MemAvailable:")
        if not total_bytes or available_bytes is None:
            return None
        return HostSample(
            at_ns,
            total_bytes,
            available_bytes,
            kib_field(data, b"SwapTotal:") or 0,
            kib_field(data, b"SwapFree:") or 0,
        )

    def _find(self, total_bytes: int, at_ns: int) -> None:
        self._forget_limits()
        self._limits = find_limits(self._proc, self._root, total_bytes, self._files)
        self._find_at_ns = at_ns + _REFIND_NS

    def _forget_limits(self) -> None:
        for limit in self._limits:
            limit.close()
        self._limits = []

    def _limited(self, sample: HostSample) -> HostSample:
        total_bytes, available_bytes = sample.total_bytes, sample.available_bytes
        for limit in self._limits:
            try:
                left_bytes = limit.available_bytes(available_bytes)
            except (OSError, ValueError):
                # The cgroup was removed, or we were moved: found again at the next look.
                self._find_at_ns = sample.at_ns
                continue
            total_bytes = min(total_bytes, limit.limit_bytes)
            available_bytes = min(available_bytes, left_bytes)
        return HostSample(
            sample.at_ns,
            total_bytes,
            available_bytes,
            sample.swap_total_bytes,
            sample.swap_free_bytes,
        )


def _by_sysinfo(at_ns: int) -> HostSample:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return HostSample(
        at_ns,
        os.sysconf("SC_PHYS_PAGES") * page_bytes,
        os.sysconf("SC_AVPHYS_PAGES") * page_bytes,
    )
