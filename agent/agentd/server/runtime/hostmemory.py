"""How much memory jobs can have here at most."""

from __future__ import annotations

import time

from agentd.system.memory.host import HostGauge


def total_bytes() -> int:
    """Return the host's RAM; inside a container the container's limit if that is less."""
    gauge = HostGauge()
    try:
        return gauge.read(time.monotonic_ns()).total_bytes
    finally:
        gauge.close()
