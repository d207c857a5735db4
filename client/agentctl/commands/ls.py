"""`agentctl ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentctl.commands.base import (
    Settings,
    Verb,
    all_hosts_option,
    note,
    out_lines,
    palette,
    table_width,
    warn,
)
from agentctl.commands.kinds import Pair
from agentctl.errors import EXIT_UNREACHABLE, ApiLevelMismatchError, InvalidSpecError
from agentctl.link import is_local, on_host

if TYPE_CHECKING:
    from agentctl.model import Job
    from agentctl.several.listing import Filter, Listing

_EXAMPLES = """
agentctl ls
agentctl ls --state running --label project=vision
agentctl ls -H gpu1,gpu2
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
@all_hosts_option
@click.pass_obj
def command(
    settings: Settings,
    *,
    everything: bool,
    states: tuple[str, ...],
    name: str | None,
    labels: tuple[tuple[str, str], ...],
) -> int:
    """List jobs, newest first: all that are not over, and the last 20 that are.

    TIME is how long a job has run, or ran. Of several hosts (-H a,b,c or --all-hosts) one that
    does not answer within a second is shown as it was last seen, and the exit code is 69.
    """
    if name is not None and name.isdecimal():
        raise InvalidSpecError(
            f"--name: {name} is an id, and no name is only digits; see: agentctl show {name}"
        )
    recent = None if everything else _RECENT
    if settings.several:
        from agentctl.several.listing import Filter

        return _list_several(settings, Filter(states, name, dict(labels), recent))
    filtered = bool(states or name or labels)
    with settings.client() as client:
        jobs = client.iter_jobs(states=states, name=name, labels=dict(labels), recent=recent)
        if settings.json:
            from agentctl.render.jobs import dump_lines, job_to_json

            out_lines(dump_lines(job_to_json(job) for job in jobs))
            return 0
        listed, host = list(jobs), client.host
        if client.is_remote and not filtered:
            _remember(client.host, listed)
    _print_table(listed, host, filtered=filtered, everything=everything)
    return 0


def _remember(host: str, jobs: list[Job]) -> None:
    from datetime import UTC, datetime

    from agentctl.several.cache import HostCache

    HostCache.of_environment().keep(host, jobs, datetime.now(UTC))


def _list_several(settings: Settings, wanted: Filter) -> int:
    from agentctl.several.listing import list_hosts

    hosts = settings.chosen_hosts()
    listing = list_hosts(hosts, wanted, settings.clients(quiet=True))
    if settings.json:
        from agentctl.render.jobs import dump_lines, job_to_json

        # What is only remembered is no answer: a program would take it for one.
        absent = {host.host for host in listing.absent}
        fresh = (job for job in listing.jobs if job.host not in absent)
        out_lines(dump_lines(job_to_json(job) for job in fresh))
    else:
        _print_several(listing, filtered=not wanted.is_whole)
    return EXIT_UNREACHABLE if listing.absent else 0


def _print_several(listing: Listing, *, filtered: bool) -> None:
    from datetime import UTC, datetime

    from agentctl.render.jobs import absence_line, job_table_of_hosts

    now = datetime.now(UTC)
    seen_at = {host.host: host.seen_at or now for host in listing.absent}
    if listing.jobs:
        out_lines(job_table_of_hosts(listing.jobs, seen_at, now, palette(), table_width()))
    elif not listing.absent:
        note("no such job on any of these hosts" if filtered else "no jobs on these hosts yet")
    for host in listing.absent:
        if isinstance(host.why, ApiLevelMismatchError):
            # It did answer.
            warn(f"agentctl: {host.host}: {host.why}")
        else:
            warn(f"agentctl: {absence_line(host.host, str(host.why), host.seen_at, now)}")


def _print_table(jobs: list[Job], host: str, *, filtered: bool, everything: bool) -> None:
    from datetime import UTC, datetime

    from agentctl.render.jobs import job_table

    if not jobs:
        note(_none_line(host, filtered=filtered))
        return
    out_lines(job_table(jobs, datetime.now(UTC), palette(), table_width()))
    if not everything and sum(job.is_over for job in jobs) >= _RECENT:
        note(f"older ones: {on_host(host, 'ls --all')}")


def _none_line(host: str, *, filtered: bool) -> str:
    if filtered:
        return f"no such job; {on_host(host, 'ls --all')} looks further back"
    where = "" if is_local(host) else f" on {host}"
    return f"no jobs{where} yet; start one with: {on_host(host, 'submit -- COMMAND')}"
