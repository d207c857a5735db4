"""A job's own limit, as it is judged by. Pure."""

from __future__ import annotations

from agentd.core.guard.state import JobTrack
from agentd.core.guard.units import MIB

#: A job that its user let go on is judged again when it is past its size then by the larger.
_PARDON_BYTES = 64 * MIB
_PARDON_SHARE = 0.02


def judged_limit_bytes(track: JobTrack) -> int | None:
    """Return the size above which a job is judged; None: never."""
    limit_bytes, pardoned_bytes = track.rules.limit_bytes, track.pardoned_bytes
    if limit_bytes is None or pardoned_bytes is None:
        return limit_bytes
    allowance_bytes = max(_PARDON_BYTES, int(pardoned_bytes * _PARDON_SHARE))
    return max(limit_bytes, pardoned_bytes + allowance_bytes)
