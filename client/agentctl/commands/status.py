"""From the end of a job to the exit code of the command that waited for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentctl.errors import EXIT_INTERNAL, EXIT_REFUSED

if TYPE_CHECKING:
    from agentctl.model import Job


def shell_status(job: Job, complain: Callable[[str], None]) -> int:
    """Return the job's own status; `complain` about an end that was not the job's own exit."""
    from agentctl.model import Cause, JobState
    from agentctl.render.jobs import end_line

    status = job.exit_status
    if status is None or job.signal is not None or job.cause is not Cause.SELF:
        complain(f"agentctl: {end_line(job)}")
    if status is not None:
        return status
    return EXIT_REFUSED if job.state is JobState.START_FAILED else EXIT_INTERNAL
