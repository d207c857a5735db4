"""`agentctl logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb
from agentctl.commands.jobs import find
from agentctl.commands.kinds import MOMENT

if TYPE_CHECKING:
    from datetime import datetime

_EXAMPLES = """
agentctl logs 7
agentctl logs -f --tail 20 train
agentctl logs --since 10m --timestamps train
agentctl logs --offset 1000000 7 > rest.log
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is over.")
@click.option("-n", "--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--offset", type=click.IntRange(0), metavar="B", help="Begin at this byte.")
@click.option("--since", type=MOMENT, metavar="WHEN", help="Begin at 10m ago, or at a time.")
@click.option("--stderr", is_flag=True, help="The other log of a job with --split-stderr.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time (UTC) before each line.")
@click.argument("job", metavar="JOB")
@click.pass_obj
def command(
    settings: Settings,
    job: str,
    *,
    follow: bool,
    tail: int | None,
    offset: int | None,
    since: datetime | None,
    stderr: bool,
    timestamps: bool,
) -> None:
    """Print a job's output, byte for byte as the job wrote it.

    What was dropped to keep the log within its size is named on stderr.
    """
    settings.refuse_json("logs prints bytes as they are; use --timestamps or the SDK")
    from agentctl.api.logs import LogQuery
    from agentctl.commands.copying import STDOUT, LogCopy

    with settings.client() as client:
        query = LogQuery(
            find(client, job).id,
            stderr=stderr,
            follow=follow,
            with_times=timestamps,
            offset=offset,
            tail_lines=tail,
            since=since,
        )
        if not follow:
            LogCopy(query, STDOUT).copy(client)
            return
        from agentctl.commands.pauses import pauses_told

        with pauses_told(client, query.job_id):
            LogCopy(query, STDOUT).copy(client)
