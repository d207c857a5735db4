"""`agentctl pause`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.jobs import jobs_argument, on_each

_EXAMPLES = """
agentctl pause train
agentctl pause 7 8 && agentctl run -- ./urgent && agentctl resume 7 8
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@jobs_argument
@click.pass_obj
def command(settings: Settings, jobs: tuple[str, ...]) -> int:
    """Freeze jobs and whatever they started; they keep their memory."""
    return on_each(settings, jobs, lambda client, job: client.pause(job.id))
