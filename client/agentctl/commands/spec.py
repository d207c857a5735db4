"""The options of `submit` and `run`, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agentctl.commands.kinds import COMMAND_WORD, DURATION, SIZE, SIZE_TEXT, Pair
from agentctl.errors import InvalidSpecError

if TYPE_CHECKING:
    from agentctl.api.draft import Draft

Function = TypeVar("Function", bound=Callable[..., Any])

_PATH = click.Path(readable=False)
_DIRECTORY = click.Path(readable=False, file_okay=False)
_ENV_ALONE = "write NAME=VALUE; the job gets your whole environment in any case"

_OPTIONS = (
    click.option("-c", "line", metavar="LINE", help="Run this line with /bin/sh -c."),
    click.option("-n", "--name", metavar="NAME", help="A name to find the job by."),
    click.option("--cwd", type=_DIRECTORY, metavar="DIR", help="Working directory; else this one."),
    click.option(
        "-e",
        "--env",
        type=Pair(_ENV_ALONE),
        metavar="K=V",
        multiple=True,
        help="Add a variable to the environment, which is that of this shell.",
    ),
    click.option(
        "--mem", type=SIZE_TEXT, metavar="SIZE", help="The job's own memory limit, as 16G."
    ),
    click.option(
        "--mem-action",
        type=click.Choice(("kill", "pause", "warn")),
        help="What the guard does when it is over --mem; else kill.",
    ),
    click.option(
        "--preemptible", is_flag=True, help="The first to go when the host's memory runs out."
    ),
    click.option(
        "--requeue",
        type=click.IntRange(0, 100),
        default=0,
        metavar="N",
        help="Start it again after the guard has ended it, N times at most.",
    ),
    click.option("--timeout", type=DURATION, metavar="TIME", help="Stop it after this, as 8h."),
    click.option(
        "--grace", type=DURATION, metavar="TIME", help="Between SIGTERM and SIGKILL, as 10s."
    ),
    click.option(
        "--tty",
        is_flag=True,
        help="Give it a terminal of its own; what you type does not reach it yet.",
    ),
    click.option("--split-stderr", is_flag=True, help="Keep stdout and stderr apart."),
    click.option(
        "-l",
        "--label",
        "labels",
        type=Pair(),
        metavar="K=V",
        multiple=True,
        help="A label to find it by; any number of them.",
    ),
    click.option(
        "-o",
        "--output",
        type=_PATH,
        metavar="FILE",
        help="Send stdout and stderr straight to this file, as > would.",
    ),
    click.option("--error", type=_PATH, metavar="FILE", help="Send stderr to this file."),
    click.option("--append", is_flag=True, help="Append to those files, as >> would."),
    click.option(
        "--stdin", type=_PATH, metavar="FILE", help="Read stdin from it; else it is empty."
    ),
    click.option("--retain", type=SIZE, metavar="SIZE", help="How much output is kept on disk."),
    click.argument("command", nargs=-1, type=COMMAND_WORD, metavar="[--] CMD [ARG]..."),
)


def spec_options(function: Function) -> Function:
    """Add every option that describes a job."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@contextmanager
def options_named(options: Mapping[str, Any]) -> Iterator[None]:
    """Within it, a complaint about a field names the option as it was written."""
    try:
        yield
    except InvalidSpecError as error:
        field, colon, rest = str(error).partition(": ")
        if not colon or field not in options:
            raise
        written = str(options[field])
        quoted = f" {written}" if field == "mem" and not rest.startswith(written) else ""
        option = f"--{field.replace('_', '-')}{quoted}"
        raise InvalidSpecError(f"{option}: {rest}", reason=error.reason) from None


def draft_of(options: dict[str, Any]) -> Draft:
    """Return what the options ask for. Raises InvalidSpecError."""
    from agentctl.api.draft import Draft

    options = dict(options)
    line, command = options.pop("line"), options.pop("command")
    if line is not None and command:
        raise InvalidSpecError("-c: give a shell line or a command, not both")
    if line is None and not command:
        raise InvalidSpecError(
            "no command given; write it after --: agentctl submit -- python x.py"
        )
    argv = command if line is None else ("/bin/sh", "-c", line)
    env, labels = dict(options.pop("env")), dict(options.pop("labels"))
    return Draft(argv, env=env, labels=labels, **options)
