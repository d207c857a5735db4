"""`agentctl forward`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from agentctl.commands.base import Settings, Verb

_EXAMPLES = """
agentctl forward jupyter             # every port this job listens on
agentctl -H gpu1 forward 6006        # a port of the host
agentctl forward 8888:6006           # at port 8888 here
agentctl forward 8888:train:6006     # only if it is this job's
"""

#: What a shell adds to the number of the signal that ended a command.
_SIGNAL_STATUS = 128


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, *, targets: tuple[str, ...]) -> int:
    """Bring ports of the host to this machine until Ctrl-C, or until the job is over.

    A TARGET is JOB, PORT, LOCAL:PORT, JOB:PORT or LOCAL:JOB:PORT; a PORT may be the path of a
    unix socket of the job. Only programs of this machine can connect. The listeners stay while
    the link is away, and get the same local port the next time.
    """
    from agentctl.forward.request import parse

    wanted = [parse(target) for target in targets]
    try:
        with _ended_by_signals(), settings.client() as client:
            from agentctl.commands.forwarding import Session

            with Session(client, as_json=settings.json) as session:
                session.run(wanted)
    except _Ended as end:
        return end.status
    return 0


class _Ended(KeyboardInterrupt):
    """A signal asked for the end: what Ctrl-C raises, and to the same effect."""

    def __init__(self, number: int) -> None:
        """Keep the status that shells give to it."""
        super().__init__()
        self.status = _SIGNAL_STATUS + number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it, SIGTERM and a terminal that goes away end the command in order, as Ctrl-C does.

    By default they would end it at once, and the kernel would close each connection as if
    all had been sent.
    """

    def end(number: int, _: FrameType | None) -> None:
        # A terminal that goes away sends its signal twice: once the end has begun it goes on.
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise _Ended(number)

    # Ignored under nohup, and so it stays.
    ends = (signal.SIGTERM, signal.SIGHUP)
    caught = [each for each in ends if signal.getsignal(each) is signal.SIG_DFL]
    for each in caught:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in caught:
            if signal.getsignal(each) is end:
                signal.signal(each, signal.SIG_DFL)
