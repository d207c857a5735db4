"""Fixtures and hooks of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.helpers.agent import Agent, private_agent

# A loaded machine is no reason to fail an example.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

# Begun in the background of a shell, or with nohup, the tests and all they start ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(name="agent")
def _agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    """Yield a private agent that is not started; its end is proved afterwards."""
    with private_agent() as agent:
        yield agent
        if request.node.stash.get(_FAILED, False):
            # Into the report of the failed test: the directory is about to go.
            print(agent.log()[-8000:])  # noqa: T201


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a failure for fixtures; with AGENT_TEST_STRICT=1 a skipped test is a failed one."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    strict = os.environ.get("AGENT_TEST_STRICT") == "1"
    if strict and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and AGENT_TEST_STRICT=1: {report.longrepr}"
    return report
