"""`agentctl wait`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb, out_lines, warn
from agentctl.commands.jobs import find, jobs_argument
from agentctl.commands.kinds import DURATION
from agentctl.commands.status import shell_status
from agentctl.errors import WaitTimeoutError

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

_EXAMPLES = """
agentctl wait train && agentctl submit -- python evaluate.py
agentctl wait --timeout 1h 7 8 9
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option("--timeout", type=DURATION, metavar="TIME", help="Give up after this; exit 75.")
@jobs_argument
@click.pass_obj
def command(settings: Settings, timeout: float | None, jobs: tuple[str, ...]) -> int:
    """Wait until jobs are over and exit with their status.

    The status is the job's exit code, or 128 plus the number of the signal that ended it. Of
    several jobs it is the first one that is not 0, in the order given. A job that did not
    start counts as 1, a lost one as 70. With --json the jobs are one array.
    """
    with settings.client() as client:
        over = _wait_for_all(client, [find(client, job) for job in jobs], timeout)
    if settings.json:
        from agentctl.render.jobs import dump_lines, job_to_json

        out_lines(dump_lines(job_to_json(job) for job in over))
    statuses = [shell_status(job, complain=warn) for job in over]
    return next((status for status in statuses if status), 0)


def _wait_for_all(client: Client, jobs: list[Job], timeout_s: float | None) -> list[Job]:
    from agentctl.commands.pauses import PauseTeller

    if timeout_s is None:
        return [client.wait(job.id, seen=PauseTeller().see) for job in jobs]
    deadline_s = time.monotonic() + timeout_s
    over = []
    for job in jobs:
        try:
            left_s = max(0.0, deadline_s - time.monotonic())
            over.append(client.wait(job.id, left_s, seen=PauseTeller().see))
        except WaitTimeoutError:
            # What is left of the time says nothing to whoever gave it.
            raise WaitTimeoutError(f"job {job.id} is not over after {timeout_s:g} s") from None
    return over
