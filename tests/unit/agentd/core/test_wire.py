"""Which versions understand each other."""

from __future__ import annotations

import pytest

from agentd.core.wire import window_complaint


@pytest.mark.parametrize(
    ("client", "agent", "word"),
    [
        ("0.1.0", "0.1.9", ""),
        ("0.2.0", "0.1.0", ""),
        ("0.1.0", "0.2.0", ""),
        ("1.4.0.dev3+local", "1.5", ""),
        ("0.3.0", "0.1.0", "agentctl host upgrade HOST"),
        ("0.1.0", "0.3.0", "install agentctl 0.3 here"),
        ("1.0.0", "0.9.0", "agentctl host upgrade HOST"),
        ("0.9.0", "1.0.0", "install agentctl 1.0 here"),
        ("", "0.1.0", ""),
        ("nightly", "0.1.0", ""),
        ("1.²", "0.1.0", ""),
        ("9" * 5000 + ".1", "0.1.0", ""),
    ],
)
def test_one_minor_version_apart_is_understood(client: str, agent: str, word: str) -> None:
    """Further apart one line says which side is to be changed, and how."""
    complaint = window_complaint(client, agent)

    assert bool(complaint) == bool(word)
    assert word in complaint
    assert "\n" not in complaint
