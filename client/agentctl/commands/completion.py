"""`agentctl completion`."""

from __future__ import annotations

import click

from agentctl.commands.base import Settings, Verb, out
from agentctl.errors import AgentctlError

_EXAMPLES = """
eval "$(agentctl completion bash)"      # in ~/.bashrc
eval "$(agentctl completion zsh)"       # in ~/.zshrc
agentctl completion fish > ~/.config/fish/completions/agentctl.fish
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that teaches a shell to complete agentctl."""
    ctx.ensure_object(Settings).refuse_json("a script for a shell is not JSON")
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise AgentctlError(f"this version of click cannot complete for {shell}")
    out(kind(ctx.find_root().command, {}, "agentctl", "_AGENTCTL_COMPLETE").source())
