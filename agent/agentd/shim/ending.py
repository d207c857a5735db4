"""The exit record: core.job's Ended, StartFailed and Lost as they stand in exit.json."""

from __future__ import annotations

import os
import resource

from agentd.core.ending import SELF, UNKNOWN, cause_of_end
from agentd.shim import records
from agentd.shim.evidence import Evidence
from agentd.system.clock import boot_ns, wall_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd.shim.plan import Plan
    from agentd.shim.start import StartError
    from agentd.system.kernel import Ended


_NONE = Evidence()


class _Status:
    __slots__ = ("signal_number",)

    def __init__(self, wait_status: int) -> None:
        signaled = os.WIFSIGNALED(wait_status)
        self.signal_number = os.WTERMSIG(wait_status) if signaled else None


def ended(
    plan: Plan,
    seen: Ended,
    stop: tuple[str, str] | None,
    sent_signals: frozenset[int],
    found: Evidence = _NONE,
) -> bytes:
    """Return the record of a leader whose end was seen.

    Its usage includes what was reaped by us: whatever the job had daemonised. A cgroup of its
    own knows the peak of the whole tree, else it is that of the largest process.
    """
    verdict = None if found.verdict is None else found.verdict.reason
    status = _Status(seen.wait_status)
    cause, reason = cause_of_end(status, stop, sent_signals, verdict, found.kernel)
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_bytes = found.peak_memory_bytes
    if peak_bytes is None:
        peak_bytes = max(seen.peak_memory_bytes, below.ru_maxrss * 1024)
    usage = {
        "cpu_user_s": seen.cpu_user_s + below.ru_utime,
        "cpu_system_s": seen.cpu_system_s + below.ru_stime,
        "peak_memory_bytes": peak_bytes,
    }
    body = {
        "state": "ended",
        "started_at_ns": plan.started_at_ns,
        "ended_at_ns": wall_ns(),
        "duration_ns": boot_ns() - plan.started_boot_ns,
        "status": {"wait_status": seen.wait_status},
        "cause": cause,
        "usage": usage,
        "reason": reason,
    }
    return records.dump(body)


def start_failed(error: StartError) -> bytes:
    """Return the record of a program that never ran."""
    body = {
        "state": "start_failed",
        "failed_at_ns": wall_ns(),
        "cause": SELF,
        "reason": error.reason,
        "errno": error.errno,
        "path": error.path,
    }
    return records.dump(body)


def lost(reason: str, started_at_ns: int, surviving_pids: Sequence[int] = ()) -> bytes:
    """Return the record of an end that nobody saw."""
    body = {
        "state": "lost",
        "noticed_at_ns": wall_ns(),
        "cause": UNKNOWN,
        "reason": reason,
        "started_at_ns": started_at_ns,
        "surviving_pids": [*surviving_pids],
    }
    return records.dump(body)
