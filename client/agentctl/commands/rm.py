"""`agentctl rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.jobs import jobs_argument, on_each

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

_EXAMPLES = """
agentctl rm 7
agentctl rm 3 4 5
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@jobs_argument
@click.pass_obj
def command(settings: Settings, jobs: tuple[str, ...]) -> int:
    """Delete jobs that are over, their output included. Their ids are not used again."""
    return on_each(settings, jobs, _remove)


def _remove(client: Client, job: Job) -> Job:
    client.remove(job.id)
    return job
