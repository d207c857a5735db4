"""`agentctl stop`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.ending import end_jobs, no_wait_option
from agentctl.commands.jobs import jobs_argument
from agentctl.commands.kinds import DURATION

_EXAMPLES = """
agentctl stop 7
agentctl stop --grace 2m train      # time to write a checkpoint
agentctl stop --no-wait 7 8 9
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option(
    "--grace", type=DURATION, metavar="TIME", help="Before SIGKILL; else the job's own grace."
)
@no_wait_option
@jobs_argument
@click.pass_obj
def command(
    settings: Settings, *, grace: float | None, no_wait: bool, jobs: tuple[str, ...]
) -> int:
    """Stop jobs and whatever they started: SIGTERM, grace, SIGKILL.

    Returns when they are gone; Ctrl-C leaves them to end alone.
    """
    return end_jobs(settings, jobs, grace, wait=not no_wait)
