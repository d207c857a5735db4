"""`agentctl wait`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb, all_hosts_option, out_lines, warn
from agentctl.commands.jobs import any_names_a_host, find_at_host, jobs_argument
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
    if settings.several or any_names_a_host(jobs):
        return _wait_on_several(settings, jobs, timeout)
    with settings.client() as client:
        over = _wait_for_all(client, [find_at_host(client, job) for job in jobs], timeout)
    if settings.json:
        from agentctl.render.jobs import dump_lines, job_to_json

        out_lines(dump_lines(job_to_json(job) for job in over))
    statuses = [shell_status(job, complain=warn) for job in over]
    return next((status for status in statuses if status), 0)


def _wait_for_all(client: Client, jobs: list[Job], timeout_s: float | None) -> list[Job]:
    limit = _Limit.of(timeout_s)
    return [_wait_for(client, job, limit) for job in jobs]


@dataclass(frozen=True, slots=True)
class _Limit:
    """How long all jobs together are waited for."""

    #: As it was asked for; None: for ever.
    timeout_s: float | None
    #: Of time.monotonic().
    ends_s: float

    @classmethod
    def of(cls, timeout_s: float | None) -> _Limit:
        """Begin now."""
        return cls(timeout_s, time.monotonic() + (timeout_s or 0.0))

    @property
    def left_s(self) -> float | None:
        """What is left of it; None: for ever."""
        return None if self.timeout_s is None else max(0.0, self.ends_s - time.monotonic())


def _wait_for(client: Client, job: Job, limit: _Limit) -> Job:
    from agentctl.commands.pauses import PauseTeller

    try:
        return client.wait(job.id, limit.left_s, seen=PauseTeller().see)
    except WaitTimeoutError as error:
        if error.asked_before or limit.timeout_s is None:
            raise
        # What is left of the time says nothing to whoever gave it.
        raise WaitTimeoutError(f"job {job.id} is not over after {limit.timeout_s:g} s") from None


def _wait_on_several(settings: Settings, jobs: tuple[str, ...], timeout_s: float | None) -> int:
    from agentctl.several.asking import do_all
    from agentctl.several.references import read_references

    references = read_references(jobs, settings.chosen_hosts())
    open_client = settings.clients()
    # One connection a host, whatever the number of its jobs.
    clients = {host: open_client(host) for host in {place.host for place in references}}
    limit = _Limit.of(timeout_s)

    def wait(host: str, job: str) -> Job:
        client = clients[host]
        return _wait_for(client, find_at_host(client, job), limit)

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
