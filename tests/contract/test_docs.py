"""The manual speaks of what exists: every verb, every option, every link."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from agentctl.cli import cli
from agentd.core.lifecycle import render_mermaid

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
_FENCE = re.compile(r"^```.*?$(.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for verb in cli.list_commands(context):
        command = cli.get_command(context, verb)
        assert command is not None
        found[verb] = command
    return found


def _examples(page: Path) -> list[list[str]]:
    """Return the words of each `agentctl …` line in the page's code blocks."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line.strip().removeprefix("$ ")
        for block in _FENCE.findall(text)
        for line in block.split("\n")
    ]
    return [line.split("#")[0].split() for line in lines if line.startswith("agentctl ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository."""
    targets = [target for target, _ in _LINK.findall(page.read_text(encoding="utf-8"))]
    local = [t for t in targets if "://" not in t and not t.startswith("mailto:")]

    assert [t for t in local if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_use_verbs_and_options_that_exist(page: Path) -> None:
    """Each `agentctl` line in a code block names a verb and options of the program."""
    commands = _commands()
    wrong = []
    for words in _examples(page):
        rest = [w for w in words[1:] if w != "--json"]
        if rest[0].startswith("-"):
            continue
        command = commands.get(rest[0])
        options = _options_of(command)
        own = rest[1 : rest.index("--")] if "--" in rest else rest[1:]
        unknown = [w for w in own if w.startswith("-") and w.split("=")[0] not in options]
        if command is None or unknown:
            wrong.append((" ".join(words), unknown))

    assert wrong == []


def _options_of(command: click.Command | None) -> set[str]:
    if command is None:
        return set()
    options = {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            options |= _options_of(command.get_command(context, name))
    return options


def test_every_verb_stands_in_the_manual() -> None:
    """No verb of the program is missing from docs/manual."""
    manual = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/manual").glob("*.md"))

    assert [verb for verb in _commands() if f"agentctl {verb}" not in manual] == []


def test_the_state_diagram_is_the_table() -> None:
    """docs/ARCHITECTURE.md draws what core/lifecycle.py does."""
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = page.partition("```mermaid\n")[2].partition("```")[0]

    assert drawn == render_mermaid()
