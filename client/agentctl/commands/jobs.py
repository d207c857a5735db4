"""JOB arguments: from what was typed to jobs, and one act on several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, out_lines, warn
from agentctl.errors import AgentctlError, AmbiguousNameError, JobNotFoundError

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

#: Several JOB arguments, at least one.
jobs_argument = click.argument("jobs", metavar="JOB...", nargs=-1, required=True)


def find(client: Client, reference: str) -> Job:
    """Return the job that an id or a name means.

    Raises:
        JobNotFoundError: None.
        AmbiguousNameError: Several; the message lists them.

    """
    try:
        return client.find(reference)
    except AmbiguousNameError as error:
        from datetime import UTC, datetime

        from agentctl.render.jobs import candidates_text

        listed = candidates_text(error.candidates, datetime.now(UTC))
        raise AmbiguousNameError(f"{error}: {listed}", error.candidates) from None


def find_at_host(client: Client, reference: str) -> Job:
    """Do as `find`, for a verb that takes HOST:JOB: say whether the host is what is not known."""
    try:
        return find(client, reference)
    except JobNotFoundError as error:
        from agentctl.several.references import explained

        raise explained(error, reference) from None


def any_names_a_host(references: Sequence[str]) -> bool:
    """Say whether one of them is HOST:JOB of a host that is known."""
    if not any(":" in reference for reference in references):
        return False
    from agentctl.several import references as several

    return several.any_names_a_host(references)


def on_each(
    settings: Settings, references: Sequence[str], act: Callable[[Client, Job], Job]
) -> int:
    """Do `act` to each job, all of them even if one refuses; return the first error's code.

    With --json the jobs it returned are printed as one array.
    """
    code = 0
    done: list[Job] = []
    with settings.client() as client:
        for reference in references:
            try:
                done.append(act(client, find(client, reference)))
            except AgentctlError as error:
                warn(f"agentctl: {error}")
                code = code or error.exit_code
    if settings.json:
        from agentctl.render.jobs import dump_lines, job_to_json

        out_lines(dump_lines(job_to_json(job) for job in done))
    return code
