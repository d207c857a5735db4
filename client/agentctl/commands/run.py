"""`agentctl run`."""

from __future__ import annotations

from typing import Any

import click

from agentctl.commands.base import COMMAND_LINE, Settings, Verb
from agentctl.commands.spec import draft_of, options_named, spec_options

_EXAMPLES = """
agentctl run -- python train.py
agentctl run --name build -- make -j8 && echo built
agentctl run --split-stderr -- ./convert data > out.txt 2> err.txt
agentctl run -c 'sleep 5; exit 7'; echo $?
"""


@click.command(cls=Verb, examples=_EXAMPLES, context_settings=COMMAND_LINE)
@spec_options
@click.pass_obj
def command(settings: Settings, /, **options: Any) -> int:  # noqa: ANN401  # click's options, see commands/spec.py
    """Start a job, show its output as it comes, and exit with its status.

    A job ended by signal n gives 128+n, one that did not start 1, a lost one 70. Ctrl-C leaves
    it running and says how to come back; a second one within 2 s stops it. If this command is
    killed, or its terminal closed, the job goes on.
    """
    settings.refuse_json("run prints the job's own output; use: agentctl submit --json")
    from agentctl.commands.following import run_to_end

    with settings.client() as client, options_named(options):
        return run_to_end(client, draft_of(options))
