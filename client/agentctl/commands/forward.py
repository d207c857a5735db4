"""`agentctl forward`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb

_EXAMPLES = """
agentctl forward jupyter             # every port this job listens on
agentctl -H gpu1 forward 6006        # a port of the host
agentctl forward 8888:6006           # at port 8888 here
agentctl forward train:6006          # only if it is this job's
agentctl forward 8888:train:6006
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, *, targets: tuple[str, ...]) -> None:
    """Bring ports of the host to this machine until Ctrl-C, or until the job is over.

    A TARGET is JOB, PORT, LOCAL:PORT, JOB:PORT or LOCAL:JOB:PORT; a PORT may be the path of a
    unix socket of the job. Only programs of this machine can connect. The listeners stay while
    the link is away, and get the same local port the next time.
    """
    from agentctl.forward.request import parse

    wanted = [parse(target) for target in targets]
    with settings.client() as client:
        from agentctl.commands.forwarding import Session

        with Session(client, as_json=settings.json) as session:
            session.run(wanted)
