"""`agentctl show`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb, out, out_lines, palette
from agentctl.commands.jobs import find

_EXAMPLES = """
agentctl show 7
agentctl show train
agentctl show 7 --json | jq .exit_code
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("job", metavar="JOB")
@click.pass_obj
def command(settings: Settings, job: str) -> None:
    """Show all that is known of a job."""
    from datetime import UTC, datetime

    from agentctl.render.jobs import dump_object, job_block, job_to_json

    with settings.client() as client:
        found = find(client, job)
        if settings.json:
            out(dump_object(job_to_json(found)))
            return
        directory = f"{client.agent_info().state_dir}/jobs/{found.id}"
    out_lines(job_block(found, directory, datetime.now(UTC), palette()))
