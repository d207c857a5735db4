"""`agentctl events`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from agentctl.commands.base import Settings, Verb, all_hosts_option, out, palette, say, warn
from agentctl.commands.jobs import any_names_a_host, find_at_host
from agentctl.errors import EXIT_UNREACHABLE

if TYPE_CHECKING:
    from agentctl.api.trouble import Notice
    from agentctl.model import Event
    from agentctl.render.color import Palette

_EXAMPLES = """
agentctl events -f
agentctl events --tail 50 train
agentctl events -f -H gpu1,gpu2
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
@all_hosts_option
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.pass_obj
def command(settings: Settings, *, follow: bool, tail: int | None, jobs: tuple[str, ...]) -> int:
    """Print what happened to the jobs, one line an event, oldest first.

    With --json one object a line. Of several hosts (-H a,b,c or --all-hosts) each line names
    its host; if one of them cannot be asked, the exit code is 69. With -f a host that is away is
    waited for. HOST:JOB is a job of another host.
    """
    from agentctl.render.jobs import event_line

    colours = palette()
    if follow and tail is None:
        tail = _FOLLOW_TAIL
    if settings.several or any_names_a_host(jobs):
        return _print_several(settings, jobs, tail, follow=follow)
    with settings.client() as client:
        chosen = [find_at_host(client, reference).id for reference in jobs]
        after_seq = 0 if tail is None else max(0, client.last_event_seq() - tail)
        for event in client.events(follow=follow, after_seq=after_seq, job_ids=chosen):
            out(_json_of(event) if settings.json else event_line(event, colours))
            if follow:
                sys.stdout.flush()
    return 0


def _json_of(event: Event) -> str:
    from agentctl.render.jobs import event_to_json

    return json.dumps(event_to_json(event))


def _print_several(
    settings: Settings, jobs: tuple[str, ...], tail: int | None, *, follow: bool
) -> int:
    from agentctl.several.asking import Silent
    from agentctl.several.happenings import Question, events_of_hosts

    question = Question.of(settings.chosen_hosts(), jobs, tail, follow=follow)
    colours = palette()
    code = 0
    for item in events_of_hosts(question, settings.clients(), _tell_joining):
        if isinstance(item, Silent):
            warn(f"agentctl: {item.host}: {item.why}")
            code = EXIT_UNREACHABLE
            continue
        out(_json_of(item) if settings.json else _line_of(item, colours))
        if follow:
            sys.stdout.flush()
    return code


def _tell_joining(notice: Notice) -> None:
    from agentctl.api.trouble import LinkLost
    from agentctl.render.units import format_duration
    from agentctl.words import printable

    if isinstance(notice, LinkLost):
        say(f"agentctl: waiting for {notice.host} ... ({printable(notice.why)})")
    else:
        say(f"agentctl: {notice.host} answers after {format_duration(notice.away_s)}")


def _line_of(event: Event, colours: Palette) -> str:
    from agentctl.render.jobs import event_line

    return event_line(event, colours, with_host=True)
