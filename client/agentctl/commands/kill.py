"""`agentctl kill`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.ending import end_jobs, no_wait_option
from agentctl.commands.jobs import jobs_argument

_EXAMPLES = """
agentctl kill 7
agentctl kill train eval
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@no_wait_option
@jobs_argument
@click.pass_obj
def command(settings: Settings, *, no_wait: bool, jobs: tuple[str, ...]) -> int:
    """Kill jobs and whatever they started at once: SIGKILL, no grace."""
    return end_jobs(settings, jobs, 0, wait=not no_wait)
