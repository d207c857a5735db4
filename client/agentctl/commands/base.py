"""What all verbs share: the options before and after the verb, help by example, output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from agentctl import __version__
from agentctl.errors import HostUnreachableError, InvalidSpecError
from agentctl.words import told

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.api.trouble import Notice
    from agentctl.render.color import Palette


class Settings:
    """What was said before or after the verb."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self.host: str | None = None
        self.all_hosts = False
        self.json = False

    @property
    def several(self) -> bool:
        """Whether several hosts are meant. Cheap: most often there is nothing to look at."""
        return self.all_hosts or "," in (self._named()[0] or "")

    def chosen_host(self) -> str | None:
        """Return the host meant: -H, $AGENTCTL_HOST, the configuration's default, or None.

        Raises:
            HostUnreachableError: It cannot be reached; the message says who named it.
            InvalidSpecError: Several are named.

        """
        host, source = self._named()
        if host and "," in host:
            raise InvalidSpecError(
                f"{source} {host}: only ls, events and wait take several hosts; name one"
            )
        try:
            _check_host(host, source)
        except HostUnreachableError:
            # Only a person can be asked, and only then is the verb loaded that could do it.
            from agentctl.commands.host import offer_to_add

            if not (host and offer_to_add(host)):
                raise
        return host

    def chosen_hosts(self) -> tuple[str, ...]:
        """Return all hosts meant, each once, in the order given; "local" is this machine.

        Raises:
            HostUnreachableError: One of them is not set up; the message says who named it.
            InvalidSpecError: A name is empty, or --all-hosts came with -H.

        """
        from agentctl.link import LOCAL

        if self.all_hosts:
            if self.host:
                raise InvalidSpecError("-H and --all-hosts exclude each other; choose one")
            from agentctl.link.book import HostBook

            return (LOCAL, *(host.name for host in HostBook.of_environment().all()))
        named, source = self._named()
        hosts = tuple(dict.fromkeys(part.strip() for part in (named or LOCAL).split(",")))
        for host in hosts:
            if not host:
                raise InvalidSpecError(f"{source}: {named!r} has an empty name; write a,b,c")
            _check_host(host, source)
        return hosts

    def _named(self) -> tuple[str | None, str]:
        """Return what was said, and where."""
        if self.host:
            return self.host, "-H"
        import os

        host = os.environ.get("AGENTCTL_HOST")
        if host:
            return host, "$AGENTCTL_HOST"
        from agentctl.config import default_host
        from agentctl.paths import default_paths

        config_file = default_paths(os.environ).config_file
        return default_host(config_file), config_file

    def client(self, *, start_agent: bool = True) -> Client:
        """Return the SDK's client for the chosen host. Raises HostUnreachableError."""
        return client_of(self.chosen_host(), start_agent=start_agent)

    def clients(self, *, quiet: bool = False) -> Callable[[str], Client]:
        """Return what makes the client of any of several hosts, in any thread.

        With --all-hosts the agent of this machine is asked if it runs, and not started.
        """
        load_client()

        def make(host: str) -> Client:
            from agentctl.link import is_local

            start_agent = not (self.all_hosts and is_local(host))
            return client_of(host, start_agent=start_agent, quiet=quiet)

        return make

    def refuse_json(self, instead: str) -> None:
        """Raise InvalidSpecError if --json was given to a verb whose output is not a listing."""
        if self.json:
            raise InvalidSpecError(f"--json: {instead}")


def client_of(host: str | None, *, start_agent: bool = True, quiet: bool = False) -> Client:
    """Return the SDK's client for `host`.

    It says on stderr when a host is out of reach for long, unless it is to be `quiet`.
    """
    load_client()
    from agentctl.api.client import Client

    return Client(host, start_agent=start_agent, on_notice=None if quiet else _tell_notice)


def load_client() -> None:
    """Load the SDK; to be called before threads make clients."""
    if "agentctl.api.client" in sys.modules:
        return
    import gc

    with _without("ssl"):
        # gRPC imports asyncio, and that OpenSSL if it can: 6 ms for what is never used here.
        import agentctl.api.client  # noqa: F401  # loaded for those who come after
    # From here on a command may run for days.
    gc.freeze()
    gc.enable()


def _tell_notice(notice: Notice) -> None:
    from agentctl.api.trouble import LinkLost
    from agentctl.render.units import format_duration
    from agentctl.words import printable

    if isinstance(notice, LinkLost):
        say(f"agentctl: reconnecting to {notice.host} ... ({printable(notice.why)})")
    else:
        say(f"agentctl: {notice.host} is back after {format_duration(notice.away_s)}")


def _check_host(host: str | None, source: str) -> None:
    from agentctl.link import check_host

    try:
        check_host(host)
    except HostUnreachableError as error:
        raise HostUnreachableError(f"{error} (the host was named by {source})") from None


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


def _keep_all_hosts(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value:
        ctx.ensure_object(Settings).all_hosts = True


_ALL_HOSTS = "all_hosts"
#: For verbs that can ask several hosts at once.
all_hosts_option = click.option(
    "--all-hosts",
    is_flag=True,
    expose_value=False,
    callback=_keep_all_hosts,
    help="Ask this machine and every host that was added.",
)


def _keep_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value:
        ctx.ensure_object(Settings).json = True


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value and not ctx.resilient_parsing:
        click.echo(f"agentctl {__version__}")
        ctx.exit()


def _host_option(metavar: str) -> click.Option:
    return click.Option(
        ["-H", "--host"],
        metavar=metavar,
        expose_value=False,
        callback=_keep_host,
        help="Whose agent to talk to; without it this machine's.",
    )


_SHARED_BY_ALL = (
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
SHARED_OPTIONS: tuple[click.Option, ...] = (_host_option("HOST"), *_SHARED_BY_ALL)
_SHARED_BY_SEVERAL = (_host_option("HOST[,HOST...]"), *_SHARED_BY_ALL)


class Verb(click.Command):
    """A command with the shared options and with examples below its help."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:  # noqa: ANN401  # click's own arguments, passed on
        """Take what click takes, and lines of examples."""
        own: list[click.Parameter] = kwargs.get("params") or []
        takes_several = any(option.name == _ALL_HOSTS for option in own)
        kwargs["params"] = [*own, *(_SHARED_BY_SEVERAL if takes_several else SHARED_OPTIONS)]
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
    say(text)


def say(text: str) -> None:
    """Write one line to stderr in any case and at once, from any thread."""
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
