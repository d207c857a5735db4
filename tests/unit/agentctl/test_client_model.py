"""Jobs and signals as values."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentctl.model import JobState, signal_name, signal_number
from tests.unit.agentctl.samples import AT, later, sample_job


@pytest.mark.parametrize("text", ["USR1", "SIGUSR1", "sigusr1", "10", " usr1 "])
def test_a_signal_is_known_by_name_or_number(text: str) -> None:
    """With or without SIG, in any case."""
    assert signal_number(text) == signal.SIGUSR1


@pytest.mark.parametrize("text", ["", "0", "-9", "65", "FOO", "DFL", "_DFL", "RTMIN+99", "²"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    """SIG_DFL is an attribute of the module and still no signal."""
    with pytest.raises(ValueError, match="not a signal"):
        signal_number(text)


@given(st.integers(1, 64))
def test_every_signal_is_found_again_by_its_name(number: int) -> None:
    """Real-time signals without a name of their own included."""
    assert signal_number(signal_name(number)) == number


def test_a_signal_folds_to_128_plus_its_number() -> None:
    """As a shell says it."""
    killed = replace(sample_job(JobState.ENDED), exit_code=None, signal="SIGKILL")
    assert killed.exit_status == 137
    assert not killed.succeeded


def test_a_job_without_a_status_has_none() -> None:
    """A lost job neither succeeded nor failed."""
    lost = sample_job(JobState.LOST)
    assert lost.exit_status is None
    assert lost.is_over
    assert not lost.succeeded


def test_a_clock_set_back_gives_no_negative_duration() -> None:
    """Wall clocks jump; a duration does not go below zero."""
    job = replace(sample_job(JobState.ENDED), started_at=later(60), ended_at=AT)
    assert job.duration_s == 0
