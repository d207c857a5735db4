"""How a host is, of what it answered or did not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentctl import errors
from agentctl.link.book import Host
from agentctl.model import JobState
from agentctl.several.asking import Silent
from agentctl.several.cache import Seen
from agentctl.several.roll import Away, Down, Foreign, Row, Up, state_of
from tests.unit.agentctl.samples import AT, sample_job

HOST = Host("gpu1", "gpu1", "/a/agentd", "0.1.0", datetime.now(UTC))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (errors.AgentNotRunningError("none"), Down()),
        (errors.ApiLevelMismatchError("old"), Foreign("old")),
        (errors.TryAgainError("late"), Away("late")),
        (errors.HostUnreachableError("x" * 300), Away("x" * 200)),
    ],
)
def test_a_silence_has_a_reason(error: errors.AgentctlError, state: Down | Foreign | Away) -> None:
    """No agent, one of another version, or nobody at all."""
    assert state_of(Silent("gpu1", error)) == state


def test_a_row_shows_what_is_known() -> None:
    """The version that answered, else the one installed; the jobs that were not over, if any."""
    jobs = (sample_job(JobState.RUNNING, 2), sample_job(JobState.ENDED, 1))
    up = Row(HOST, Up("0.2.0"), Seen(AT, jobs))
    assert (up.version, up.jobs) == ("0.2.0", 1)
    foreign = Row(HOST, Foreign("old", "0.4.0"), None)
    assert (foreign.version, Row(HOST, Foreign("old"), None).version) == ("0.4.0", "0.1.0")
    away = Row(HOST, Away("late"), None)
    assert (away.version, away.jobs) == ("0.1.0", None)
