"""The command line: verbs loaded at their first use, errors as one line, exit codes.

Whatever this module imports is paid by every command and by every press of TAB: click and
nothing else of weight.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence

import click

from agentctl.commands.base import SHARED_OPTIONS, Settings, flush
from agentctl.errors import EXIT_INTERNAL, EXIT_REFUSED, AgentctlError
from agentctl.words import told

#: Set by the completion scripts: what is to be completed.
COMPLETE_VARIABLE = "_AGENTCTL_COMPLETE"
_SIGINT_STATUS = 130
_SIGPIPE_STATUS = 141

#: Every verb by section: its module in `agentctl.commands` has the same name.
SECTIONS = {
    "Start a job": {
        "submit": "Start a job and print its id.",
        "run": "Start a job, show its output, exit with its status.",
    },
    "Look": {
        "ls": "List jobs.",
        "show": "Show all that is known of a job.",
        "logs": "Print a job's output.",
        "events": "Print what happened to the jobs.",
        "guard": "Show how the memory stands, and which job would go first.",
        "wait": "Wait for jobs and exit with their status.",
    },
    "Control": {
        "stop": "Stop jobs: SIGTERM, then SIGKILL.",
        "kill": "Kill jobs at once.",
        "signal": "Send a signal to jobs.",
        "pause": "Freeze jobs.",
        "resume": "Let paused jobs go on.",
        "rm": "Delete jobs that are over.",
    },
    "Hosts": {
        "host": "Set servers up over SSH, and look after them.",
        "forward": "Bring ports of a host, or of a job, to this machine.",
    },
    "The agent": {
        "agent": "Start, stop and look at the agent.",
        "completion": "Print the completion script of a shell.",
    },
}
VERBS = {verb: text for section in SECTIONS.values() for verb, text in section.items()}

_INTRODUCTION = """Jobs that cannot be lost: they outlive your terminal and your login.

\b
  agentctl submit --name train -- python train.py --epochs 90
  agentctl ls
  agentctl logs -f train
  agentctl stop train

\b
  agentctl host add gpu1
  agentctl -H gpu1 submit -- python train.py

A JOB is an id, or a name that only one job can be meant by. The agent that minds
the jobs is started by the first command that needs it.
"""


class VerbGroup(click.Group):
    """Knows the verbs by name and loads the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return every verb, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Load one verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"agentctl.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Do as click, and say which verb may have been meant."""
        if args and args[0] not in VERBS and not ctx.resilient_parsing:
            from difflib import get_close_matches

            meant = get_close_matches(args[0], VERBS, n=1)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            ctx.fail(f"there is no verb {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the verbs by section without loading any."""
        width = max(map(len, VERBS))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.ljust(width), text) for verb, text in verbs.items()])


cli = VerbGroup(
    name="agentctl",
    help=_INTRODUCTION,
    params=list(SHARED_OPTIONS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="VERB [ARGS]...",
    no_args_is_help=True,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; as the console script, leave with it."""
    # What is loaded here stays for good: looking for garbage among it costs 6 ms.
    gc.disable()
    _tolerate_any_text()
    try:
        code = _run(arguments)
        flush()
    except BrokenPipeError:
        code = _SIGPIPE_STATUS
    except KeyboardInterrupt:
        code = _SIGINT_STATUS
    except OSError as error:
        # Our own output has no room, for one.
        code = _complain(f"{error.strerror or error}", EXIT_REFUSED)
    if arguments is None:
        # Everything is flushed and nothing of ours is open; taking gRPC down costs 19 ms, and
        # a broken pipe would be complained about once more.
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _dispatch(list(words))
    except click.exceptions.NoArgsIsHelpError as error:
        # The whole help, as asked for by giving nothing.
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        return _complain(_usage_text(error, words), error.exit_code)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except AgentctlError as error:
        _debug()
        return _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, OSError):
        _debug()
        raise
    except Exception as error:  # noqa: BLE001  # the rim: no traceback for people who did not ask for one
        _debug()
        return _complain(
            f"internal error: {type(error).__name__}: {error} "
            "(AGENTCTL_DEBUG=1 shows where; please report it)",
            EXIT_INTERNAL,
        )


def _dispatch(arguments: list[str]) -> int:
    # Not click's own `main`: it would end a broken pipe with 1 and a word of its own.
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "agentctl", COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context("agentctl", arguments, obj=Settings()) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _usage_text(error: click.UsageError, arguments: Sequence[str]) -> str:
    text = error.format_message().rstrip(".")
    # Click's own "No such option '--nam'. (Did you mean '--name'?)".
    text = text.replace(". (Did you mean", " (did you mean").replace(
        ". Did you mean", "; did you mean"
    )
    text = text.replace("a valid integer range", "a whole number")
    link = "" if text.endswith("?") else ";"
    path = error.ctx.command_path if error.ctx is not None else _path_of(arguments)
    return f"{text}{link} see: {path} --help"


def _path_of(arguments: Sequence[str]) -> str:
    # Click forgets the verb of an option that lacks its value.
    verb = next((word for word in arguments if word in VERBS), None)
    return f"agentctl {verb}" if verb else "agentctl"


def _debug() -> None:
    if os.environ.get("AGENTCTL_DEBUG"):
        import traceback

        traceback.print_exc()


def _complain(text: str, code: int) -> int:
    line = told(" ".join(text.split()))
    try:
        click.echo(f"agentctl: {line}", err=True)
    except OSError:
        # Nobody reads stderr; the exit code says it.
        pass
    return code


def _tolerate_any_text() -> None:
    # Names and paths need not be text; showing them must not fail.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
