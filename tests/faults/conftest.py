"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.court import Court
from tests.helpers.agent import Agent
from tests.helpers.mounts import run_in_namespace
from tests.helpers.witness import witnesses


@pytest.fixture(name="court")
def _court(agent: Agent) -> Iterator[Court]:
    """Yield a court over an agent that rotates logs every 16 KiB."""
    with witnesses(agent.root) as make:
        court = Court(agent, make)
        yield court
        court.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Give a test marked `root` what it needs, whoever runs it."""
    if pyfuncitem.get_closest_marker("root") and run_in_namespace(pyfuncitem):
        return True
    return None
