"""`agentctl signal`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.jobs import jobs_argument, on_each
from agentctl.commands.kinds import SIGNAL

_EXAMPLES = """
agentctl signal USR1 train
agentctl signal SIGINT 7 8
agentctl signal 10 7
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("number", metavar="SIG", type=SIGNAL)
@jobs_argument
@click.pass_obj
def command(settings: Settings, number: int, jobs: tuple[str, ...]) -> int:
    """Send a signal to the process group of jobs."""
    return on_each(settings, jobs, lambda client, job: client.signal(job.id, number))
