"""Draw docs/lifecycle.md from the table of states: `python docs/lifecycle.py [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from agentd.core.lifecycle import render_mermaid

PAGE = Path(__file__).with_suffix(".md")

_TEXT = """# The life of a job

Drawn by `python docs/lifecycle.py` from the table in `agentd.core.lifecycle`; do not edit.
An arrow is named by the events that lead along it. Left out: what leads back to the same
state, and an adoption after a restart, which leads from any state that is not final to
whatever the shim says.

```mermaid
{diagram}```
"""


def render() -> str:
    """Return the page."""
    return _TEXT.format(diagram=render_mermaid())


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say by the exit status whether it is fresh."""
    if arguments == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != render())
    PAGE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
