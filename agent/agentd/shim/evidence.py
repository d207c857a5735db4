"""What else is known of a leader's end: the guard's verdict, the kernel's word, the peak.

Looked up once, when the tree is empty: files of the job's directory, of its cgroup, of /proc.
"""

from __future__ import annotations

import os

from agentd.core.ending import killed_by_kernel, killed_by_somebody
from agentd.core.value import Value
from agentd.errors import AgentError
from agentd.shim import records
from agentd.system import cgroups, jobfiles, plainjson
from agentd.system.clock import boot_id
from agentd.system.signals import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentd.shim.plan import Plan

TERMINATE = "terminate"
KILL = "kill"


class Verdict(Value):
    """The guard's last one on this job: content of verdict.json."""

    __slots__ = ("action", "reason")

    def __init__(self, action: str, reason: str) -> None:
        """`action` is TERMINATE or KILL; `reason` one line for people."""
        self.action = action
        self.reason = reason


class Evidence(Value):
    """All that was found; None where there is nothing."""

    __slots__ = ("kernel", "peak_memory_bytes", "verdict")

    def __init__(
        self,
        verdict: Verdict | None = None,
        kernel: tuple[str, str] | None = None,
        peak_memory_bytes: int | None = None,
    ) -> None:
        """`kernel` is cause and reason, should nobody else have sent the SIGKILL."""
        self.verdict = verdict
        self.kernel = kernel
        self.peak_memory_bytes = peak_memory_bytes


def gather(plan: Plan, wait_status: int) -> Evidence:
    """Look, in the current directory, the job's, after its last process has ended."""
    kernel = None
    if os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == SIGKILL:
        kernel = _kernel(plan)
    peak_bytes = cgroups.peak_bytes(plan.cgroup) if plan.cgroup else None
    return Evidence(deadly_verdict(), kernel, peak_bytes)


def deadly_verdict() -> Verdict | None:
    """Return the guard's verdict of this boot that is to end the job of the current directory."""
    try:
        body = plainjson.loads(jobfiles.read(jobfiles.VERDICT) or b"")
    except (OSError, ValueError):
        # None, or torn: it costs the reason, not the end.
        return None
    action, reason = body.get("action"), body.get("reason")
    if body.get("boot_id") != boot_id() or not isinstance(reason, str):
        return None
    return Verdict(action, reason) if action in (TERMINATE, KILL) else None


def _kernel(plan: Plan) -> tuple[str, str] | None:
    kills = cgroups.oom_kills(plan.cgroup) if plan.cgroup else None
    if kills is None:
        return _by_counters(plan)
    if not kills.killed_processes:
        return None
    limit_bytes = _limit_bytes() if kills.is_own_limit else None
    return killed_by_kernel(limit_bytes, limit_bytes and cgroups.maximum_bytes(limit_bytes))


def _by_counters(plan: Plan) -> tuple[str, str] | None:
    now = cgroups.host_oom_kills()
    if now is None or plan.host_oom_kills < 0:
        return None
    return killed_by_somebody(now - plan.host_oom_kills)


def _limit_bytes() -> int | None:
    try:
        spec = records.read(jobfiles.SPEC)
    except (AgentError, OSError):
        return None
    return None if spec is None else spec.get("mem_limit_bytes")
