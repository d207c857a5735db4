"""`agentctl guard`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb, out, out_lines, palette, table_width

_EXAMPLES = """
agentctl guard
agentctl guard --json | jq '.host.available_bytes'
agentctl guard --json | jq -r '.jobs[0].job_id'
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.pass_obj
def command(settings: Settings) -> None:
    """Show how the memory stands, what guards it, and which job would go first.

    USES is what a job holds, or with ≤ what it holds at most: only a job that comes near a limit
    is measured exactly. LEFT is what is left of its own limit, or by how much it is over.
    """
    with settings.client() as client:
        guard = client.guard()
    if settings.json:
        from agentctl.render.guard import guard_to_json
        from agentctl.render.jobs import dump_object

        out(dump_object(guard_to_json(guard)))
        return
    from agentctl.render.guard import guard_block

    out_lines(guard_block(guard, palette(), table_width()))
