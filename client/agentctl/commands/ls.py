"""`agentctl ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb, note, out_lines, palette, table_width
from agentctl.commands.kinds import Pair
from agentctl.errors import InvalidSpecError

if TYPE_CHECKING:
    from agentctl.model import Job

_EXAMPLES = """
agentctl ls
agentctl ls --state running --label project=vision
agentctl ls --all --json | jq '.[] | select(.state == "ended" and .exit_code != 0) | .id'
"""

#: Of jobs that are over, how many are listed without --all.
_RECENT = 20
_STATES = (
    "queued",
    "starting",
    "running",
    "paused",
    "stopping",
    "ended",
    "start_failed",
    "lost",
)


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option("-a", "--all", "everything", is_flag=True, help="All jobs there ever were.")
@click.option(
    "-s", "--state", "states", type=click.Choice(_STATES), multiple=True, help="Only this state."
)
@click.option("-n", "--name", metavar="NAME", help="Only jobs of this name.")
@click.option(
    "-l", "--label", "labels", type=Pair(), metavar="K=V", multiple=True, help="Only this label."
)
@click.pass_obj
def command(
    settings: Settings,
    *,
    everything: bool,
    states: tuple[str, ...],
    name: str | None,
    labels: tuple[tuple[str, str], ...],
) -> None:
    """List jobs, newest first: all that are not over, and the last 20 that are.

    TIME is how long a job has run, or ran.
    """
    if name is not None and name.isdecimal():
        raise InvalidSpecError(
            f"--name: {name} is an id, and no name is only digits; see: agentctl show {name}"
        )
    with settings.client() as client:
        jobs = client.iter_jobs(
            states=states,
            name=name,
            labels=dict(labels),
            recent=None if everything else _RECENT,
        )
        if settings.json:
            from agentctl.render.jobs import dump_lines, job_to_json

            out_lines(dump_lines(job_to_json(job) for job in jobs))
            return
        listed = list(jobs)
    _print_table(listed, filtered=bool(states or name or labels), everything=everything)


def _print_table(jobs: list[Job], *, filtered: bool, everything: bool) -> None:
    from datetime import UTC, datetime

    from agentctl.render.jobs import job_table

    if not jobs:
        note(
            "no such job; agentctl ls --all looks further back"
            if filtered
            else "no jobs yet; start one with: agentctl submit -- COMMAND"
        )
        return
    out_lines(job_table(jobs, datetime.now(UTC), palette(), table_width()))
    if not everything and sum(job.is_over for job in jobs) >= _RECENT:
        note("older ones: agentctl ls --all")
