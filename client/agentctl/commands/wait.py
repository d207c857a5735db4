"""`agentctl wait`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb, all_hosts_option, out_lines, warn
from agentctl.commands.jobs import find, jobs_argument
from agentctl.commands.kinds import DURATION
from agentctl.commands.status import shell_status
from agentctl.errors import AgentctlError, WaitTimeoutError

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

_EXAMPLES = """
agentctl wait train && agentctl submit -- python evaluate.py
agentctl wait --timeout 1h 7 8 9
agentctl wait gpu1:7 gpu2:train
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option("--timeout", type=DURATION, metavar="TIME", help="Give up after this; exit 75.")
@all_hosts_option
@jobs_argument
@click.pass_obj
def command(settings: Settings, timeout: float | None, jobs: tuple[str, ...]) -> int:
    """Wait until jobs are over and exit with their status.

    The status is the job's exit code, or 128 plus the number of the signal that ended it. Of
    several jobs it is the first one that is not 0, in the order given. A job that did not
    start counts as 1, a lost one as 70. With --json the jobs are one array. HOST:JOB is a job
    of another host; one that is out of reach is waited for, and never counts as an end.
    """
    if settings.several or _any_names_a_host(jobs):
        return _wait_on_several(settings, jobs, timeout)
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
        except WaitTimeoutError as error:
            if error.asked_before:
                raise
            # What is left of the time says nothing to whoever gave it.
            raise WaitTimeoutError(f"job {job.id} is not over after {timeout_s:g} s") from None
    return over


def _any_names_a_host(jobs: tuple[str, ...]) -> bool:
    if not any(":" in job for job in jobs):
        return False
    from agentctl.several.references import any_names_a_host

    return any_names_a_host(jobs)


def _wait_on_several(settings: Settings, jobs: tuple[str, ...], timeout_s: float | None) -> int:
    from agentctl.commands.pauses import PauseTeller
    from agentctl.several.asking import do_all
    from agentctl.several.references import read_references

    references = read_references(jobs, settings.chosen_hosts())
    open_client = settings.clients()
    # One connection a host, whatever the number of its jobs.
    clients = {host: open_client(host) for host in {place.host for place in references}}
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def wait(host: str, job: str) -> Job:
        client = clients[host]
        found = find(client, job)
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        return client.wait(found.id, left_s, seen=PauseTeller().see)

    ends = do_all([partial(wait, place.host, place.job) for place in references])
    return _report(settings, jobs, ends)


def _report(settings: Settings, jobs: tuple[str, ...], ends: list[Job | AgentctlError]) -> int:
    """Tell every end and every failure to see one; return the first status that is not 0."""
    statuses = []
    over = []
    for job, end in zip(jobs, ends, strict=True):
        if isinstance(end, AgentctlError):
            warn(f"agentctl: {job}: {end}")
            statuses.append(end.exit_code)
        else:
            over.append(end)
            statuses.append(shell_status(end, complain=warn))
    if settings.json:
        from agentctl.render.jobs import dump_lines, job_to_json

        out_lines(dump_lines(job_to_json(job) for job in over))
    return next((status for status in statuses if status), 0)
