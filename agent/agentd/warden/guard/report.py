"""What the guard tells of itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agentd.core.contract import GuardJob, GuardNotice, GuardReport
from agentd.core.guard.model import GuardPolicy
from agentd.core.guard.standing import standing
from agentd.core.guard.state import Memory


def make(
    number: int,
    policy: GuardPolicy,
    memory: Memory,
    layers: tuple[str, ...],
    notices: Iterable[GuardNotice],
) -> GuardReport:
    """Return the answer to the question of that number: host and jobs as of the last look."""
    seen = standing(policy, memory)
    lines = seen.watermarks
    return GuardReport(
        number=number,
        enabled=policy.enabled,
        dry_run=policy.dry_run,
        layers=layers,
        host_total_bytes=seen.host.total_bytes,
        host_available_bytes=seen.host.available_bytes,
        host_rate_bytes_per_s=seen.host_rate_bytes_per_s,
        exhausted_after_s=seen.exhausted_after_s,
        warn_bytes=lines.warn_bytes,
        pause_bytes=lines.pause_bytes,
        term_bytes=lines.term_bytes,
        kill_bytes=lines.kill_bytes,
        jobs=tuple(
            GuardJob(
                job_id=job.job_id,
                upper_bytes=job.upper_bytes,
                held_bytes=job.held_bytes,
                limit_bytes=job.limit_bytes,
                rate_bytes_per_s=job.rate_bytes_per_s,
                why=job.why,
            )
            for job in seen.jobs
        ),
        notices=tuple(notices),
    )
