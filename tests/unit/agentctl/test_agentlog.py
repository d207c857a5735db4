"""The agent's own log on a terminal, and what its absence means."""

from __future__ import annotations

import pytest

from agentctl import errors
from agentctl.commands.agentlog import shown_line, why_none

AGENTD = "/home/me/.local/share/agentctl/agentd"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"event":"x"}\n', b'{"event":"x"}\n'),
        (b"\tcaf\xc3\xa9\n", b"\tcaf\xc3\xa9\n"),
        (b"\x1b]0;owned\x07\r\xff", b"\\x1b]0;owned\\x07\\r\\xff\n"),
        ("\u202ex\u200b\n".encode(), b"\\u202ex\\u200b\n"),
    ],
)
def test_nothing_acts_on_a_terminal(line: bytes, shown: bytes) -> None:
    """What could is written out; tabs and other scripts stay."""
    assert shown_line(line) == shown


@pytest.mark.parametrize(
    ("status", "begun", "kind", "words"),
    [
        (255, True, errors.TryAgainError, "lost; go on with: agentctl -H gpu1 agent logs"),
        (255, False, errors.TryAgainError, "the link to gpu1 was lost"),
        (-9, True, errors.TryAgainError, "the link to gpu1 was lost"),
        (0, True, errors.TryAgainError, "the link to gpu1 was lost"),
        (127, False, errors.HostUnreachableError, f"no agent at {AGENTD} any more (why); run: "),
        (2, False, errors.ApiLevelMismatchError, "run: agentctl host upgrade gpu1"),
        (1, False, errors.AgentNotRunningError, "gpu1: why"),
        (0, False, errors.HostUnreachableError, "start-up file"),
    ],
)
def test_each_end_is_told_for_what_it_is(
    *, status: int, begun: bool, kind: type[errors.AgentctlError], words: str
) -> None:
    """With what to do next, on that host."""
    error = why_none("gpu1", AGENTD, status, "why", begun=begun)
    assert type(error) is kind
    assert words in str(error)
