"""`agentctl submit`."""

from __future__ import annotations

from typing import Any

import click

from agentctl.commands.base import COMMAND_LINE, Settings, Verb, drop_output, flush, out
from agentctl.commands.spec import draft_of, options_named, spec_options
from agentctl.errors import RefusedError

_EXAMPLES = """
agentctl submit -- python train.py --epochs 90
agentctl submit --name train --mem 16G --timeout 8h -- python train.py
agentctl submit -c 'zcat data.gz | sort > sorted'
id=$(agentctl submit -- make -j8) && agentctl wait $id
"""


@click.command(cls=Verb, examples=_EXAMPLES, context_settings=COMMAND_LINE)
@spec_options
@click.pass_obj
def command(settings: Settings, /, **options: Any) -> None:  # noqa: ANN401  # click's options, see commands/spec.py
    """Start a job, print its id and return at once.

    The job gets the environment, the directory, the umask and the limits of this shell, as
    under nohup, and outlives the shell, the terminal and the login.
    """
    draft = draft_of(options)
    with settings.client() as client, options_named(options):
        job = client.submit_draft(draft)
    if settings.json:
        from agentctl.render.jobs import dump_object, job_to_json

        text = dump_object(job_to_json(job))
    else:
        text = str(job.id)
    try:
        out(text)
        flush()
    except OSError as error:
        drop_output()
        why = error.strerror or error
        raise RefusedError(
            f"job {job.id} was started, but its id could not be printed: {why}"
        ) from None
