"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.court import Court
from tests.helpers.agent import Agent
from tests.helpers.witness import witnesses


@pytest.fixture(name="court")
def _court(agent: Agent) -> Iterator[Court]:
    """Yield a court over an agent that rotates logs every 16 KiB."""
    with witnesses(agent.root) as make:
        yield Court(agent, make)
