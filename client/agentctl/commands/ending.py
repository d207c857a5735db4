"""What `stop` and `kill` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, note
from agentctl.commands.jobs import on_each

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

no_wait_option = click.option("--no-wait", is_flag=True, help="Return before they are gone.")


def end_jobs(
    settings: Settings, references: Sequence[str], grace: float | None, *, wait: bool
) -> int:
    """Begin to stop all of them, then wait for each; return the exit code."""
    begun: list[Job] = []

    def begin(client: Client, job: Job) -> Job:
        stopping = client.stop(job.id, grace)
        begun.append(stopping)
        return stopping

    if not wait:
        return on_each(settings, references, begin)
    quiet = Settings()
    quiet.host = settings.host
    code = on_each(quiet, references, begin)
    ids = [str(job.id) for job in begun]
    return (on_each(settings, ids, _wait) if ids else 0) or code


def _wait(client: Client, job: Job) -> Job:
    from agentctl.render.jobs import end_line

    over = client.wait(job.id)
    note(end_line(over))
    return over
