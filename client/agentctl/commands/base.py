"""What all verbs share: the options before and after the verb, help by example, output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from agentctl import __version__
from agentctl.errors import HostUnreachableError, InvalidSpecError
from agentctl.words import told

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.render.color import Palette


class Settings:
    """What was said before or after the verb."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self.host: str | None = None
        self.json = False

    def chosen_host(self) -> str | None:
        """Return the host meant: -H, $AGENTCTL_HOST, the configuration's default, or None.

        Raises:
            HostUnreachableError: It cannot be reached; the message says who named it.

        """
        import os

        from agentctl.config import default_host
        from agentctl.link import check_host
        from agentctl.paths import default_paths

        host, source = self.host, "-H"
        if not host:
            host, source = os.environ.get("AGENTCTL_HOST"), "$AGENTCTL_HOST"
        if not host:
            source = default_paths(os.environ).config_file
            host = default_host(source)
        try:
            check_host(host)
        except HostUnreachableError as error:
            raise HostUnreachableError(f"{error} (the host was named by {source})") from None
        return host

    def client(self, *, start_agent: bool = True) -> Client:
        """Return the SDK's client for the chosen host. Raises HostUnreachableError."""
        import gc

        with _without("ssl"):
            # gRPC imports asyncio, and that OpenSSL if it can: 6 ms for what is never used here.
            from agentctl.api.client import Client

        # From here on a command may run for days.
        gc.freeze()
        gc.enable()
        return Client(self.chosen_host(), start_agent=start_agent)

    def refuse_json(self, instead: str) -> None:
        """Raise InvalidSpecError if --json was given to a verb whose output is not a listing."""
        if self.json:
            raise InvalidSpecError(f"--json: {instead}")


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Within it, an import of this module fails unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    # None makes `import` raise ImportError (sys.modules in the library reference).
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def _keep_host(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Settings).host = value


def _keep_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value:
        ctx.ensure_object(Settings).json = True


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value and not ctx.resilient_parsing:
        click.echo(f"agentctl {__version__}")
        ctx.exit()


SHARED_OPTIONS: tuple[click.Option, ...] = (
    click.Option(
        ["-H", "--host"],
        metavar="HOST",
        expose_value=False,
        callback=_keep_host,
        help="Whose agent to talk to; without it this machine's.",
    ),
    click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_keep_json,
        help="Print JSON for programs.",
    ),
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_print_version,
        help="Print the version and exit.",
    ),
)


class Verb(click.Command):
    """A command with the shared options and with examples below its help."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:  # noqa: ANN401  # click's own arguments, passed on
        """Take what click takes, and lines of examples."""
        kwargs["params"] = [*(kwargs.get("params") or []), *SHARED_OPTIONS]
        super().__init__(*args, **kwargs)
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the examples as they stand."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


#: For verbs that take a command line of somebody else's: what follows it is not ours.
COMMAND_LINE = {"allow_interspersed_args": False}


def out(text: str) -> None:
    """Write one line to stdout."""
    if sys.stdout is not None:
        sys.stdout.write(f"{text}\n")


def out_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout."""
    for line in lines:
        out(line)


def flush() -> None:
    """Bring what was written to stdout out. Raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Give up what stdout could not take, so that it is not tried, and complained about, again."""
    import os

    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def note(text: str) -> None:
    """Write one line to stderr, for a person: only if one reads it."""
    from agentctl.render.color import is_terminal

    if is_terminal(sys.stderr):
        warn(text)


def warn(text: str) -> None:
    """Write one line to stderr in any case, after what stands before it on stdout."""
    flush()
    if sys.stderr is not None:
        sys.stderr.write(f"{told(text)}\n")
        sys.stderr.flush()


def palette() -> Palette:
    """Return the colours for stdout."""
    from agentctl.render.color import palette_for

    return palette_for(sys.stdout)


def table_width() -> int | None:
    """Return the columns of the terminal, or None where lines need not be cut."""
    from agentctl.render.color import is_terminal

    if not is_terminal(sys.stdout):
        return None
    import shutil

    return shutil.get_terminal_size().columns
