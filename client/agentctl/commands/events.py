"""`agentctl events`."""

from __future__ import annotations

import json
import sys

import click

from agentctl.commands.base import Settings, Verb, out, palette
from agentctl.commands.jobs import find

_EXAMPLES = """
agentctl events
agentctl events -f
agentctl events --tail 50 train
agentctl events -f --json | jq -r 'select(.kind == "job.ended") | .job_id'
"""

#: What -f shows of the past unless told otherwise.
_FOLLOW_TAIL = 10


@click.command(cls=Verb, examples=_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(0),
    metavar="N",
    help="Only from the last N events on; 10 with -f, else all.",
)
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.pass_obj
def command(settings: Settings, *, follow: bool, tail: int | None, jobs: tuple[str, ...]) -> None:
    """Print what happened to the jobs, one line an event, oldest first.

    With --json one object a line.
    """
    from agentctl.render.jobs import event_line, event_to_json

    colours = palette()
    if follow and tail is None:
        tail = _FOLLOW_TAIL
    with settings.client() as client:
        chosen = [find(client, reference).id for reference in jobs]
        after_seq = 0 if tail is None else max(0, client.last_event_seq() - tail)
        for event in client.events(follow=follow, after_seq=after_seq, job_ids=chosen):
            out(json.dumps(event_to_json(event)) if settings.json else event_line(event, colours))
            if follow:
                sys.stdout.flush()
