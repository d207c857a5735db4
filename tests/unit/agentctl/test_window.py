"""Which agents a client understands: what the agents themselves say."""

from __future__ import annotations

import pytest

from agentctl.several import window
from agentd.core import wire


@pytest.mark.parametrize("client", ["0.1.0", "0.3.0", "1.0.0", "nightly", "1.²", "", "9" * 99])
@pytest.mark.parametrize("agent", ["0.1.9", "0.2.0", "0.3.0.dev1+local", "1.0", "1.1", "x.y"])
def test_client_and_agent_have_one_rule(client: str, agent: str) -> None:
    """Whichever of the two looks first."""
    ours = window.window_complaint(client, agent, "gpu1")
    theirs = wire.window_complaint(client, agent)

    assert bool(ours) == bool(theirs)
    assert ours.partition(";")[0] == theirs.partition(";")[0]


def test_the_complaint_says_which_side_is_to_be_changed() -> None:
    """By the name of the host."""
    assert window.window_complaint("0.5.0", "0.3.0", "gpu1").endswith(
        "; run: agentctl host upgrade gpu1 (jobs go on)"
    )
    assert window.window_complaint("0.3.0", "0.5.0", "gpu1").endswith("; install agentctl 0.5 here")
