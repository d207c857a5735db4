"""Words of others in messages: a terminal shows them and does nothing."""

from __future__ import annotations

import pytest

from agentctl.words import told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cwd '/x': no such directory", "cwd '/x': no such directory"),
        ("a\nb", "a\nb"),
        ("größe", "größe"),
        ("\x1b]52;c;cm0gLXJm\x07", "\\x1b]52;c;cm0gLXJm\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\tc", "a\\rb\\tc"),
        ("\u202eexe.txt", "\\u202eexe.txt"),
        ("x\udcff", "x\\xff"),
        (ascii("x\udcff"), "'x\\xff'"),
    ],
)
def test_what_a_terminal_would_act_on_is_written_out(text: str, shown: str) -> None:
    """Lines stay lines, letters letters; whoever said it controls no screen."""
    assert told(text) == shown
