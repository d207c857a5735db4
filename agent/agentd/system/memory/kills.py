"""How often the kernel has run out of memory."""

from __future__ import annotations

import os

from agentd.system.memory.fields import number_field

_READ_BYTES = 1 << 16


def oom_kills(path: str = "/proc/vmstat") -> int | None:
    """Return how many processes the kernel has killed for want of memory since the host started.

    Those killed at a cgroup's limit count as well. The counter is there since Linux 4.13; None:
    it is not, or cannot be read. Some 30 microseconds, so not for every look.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = b""
        while more := os.read(descriptor, _READ_BYTES):
            data += more
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return number_field(data, b"oom_kill ")
