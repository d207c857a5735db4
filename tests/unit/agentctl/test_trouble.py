"""Patience, sleep and notices: the clocks of a connection that may be lost."""

from __future__ import annotations

import gc
import time

import pytest

import agentctl
from agentapi.v1 import job_service_pb2 as wire
from agentctl import errors
from agentctl.api import trouble, wake
from agentctl.api.outcome import with_unknown_outcome
from agentctl.api.patience import Patience
from agentctl.api.trouble import LinkBack, LinkLost, Notice, Trouble
from agentctl.api.wake import WakeWatch, has_slept
from tests.helpers.wait import holds_for, wait_until


@pytest.mark.parametrize(
    ("after", "slept"),
    [
        ((101.0, 201.0), False),
        # A busy machine.
        ((104.5, 204.5), False),
        # The laptop's lid: monotonic time stood still.
        ((101.0, 801.0), True),
        # This process alone was stopped.
        ((130.0, 230.0), True),
    ],
)
def test_a_sleep_shows_in_the_clocks(after: tuple[float, float], slept: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """Of the machine, or of the process."""
    assert has_slept((100.0, 200.0), after) is slept


def test_everybody_who_asked_is_woken_and_nobody_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watch ends when nobody is left."""

    class Sleeper:
        wakes = 0

        def woke(self) -> None:
            self.wakes += 1

    monkeypatch.setattr(wake, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(wake, "has_slept", lambda *_: True)
    watch = WakeWatch()
    sleepers = [Sleeper()]
    watch.add(sleepers[0])
    wait_until(lambda: sleepers[0].wakes > 1)
    sleepers.clear()
    gc.collect()
    wait_until(lambda: not watch._watching, what="the watch over")


def test_a_long_absence_is_asked_about_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a tenth of the time it took, and never more than ten seconds."""
    now_s = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now_s[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(time, "sleep", sleep)
    waiting = Patience(15)
    while now_s[0] < 1000:
        waiting.linger(3600)
    assert pauses[0] == 0
    assert max(pauses) == 10
    away_s = 0.0
    for pause_s in pauses:
        assert pause_s <= max(0.5, away_s / 10 + 1)
        away_s += pause_s
    pauses.clear()
    waiting.linger(0.25)
    assert pauses == [0.25]


def test_a_short_loss_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor its end."""
    monkeypatch.setattr(trouble, "_TELL_AFTER_S", 0.2)
    told: list[Notice] = []
    lost = Trouble("gpu1", told.append)
    lost.begin("cut")
    assert lost.is_on
    lost.end()
    holds_for(lambda: not told, seconds=0.4)


def test_a_long_loss_is_told_with_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its end with how long it took."""
    monkeypatch.setattr(trouble, "_TELL_AFTER_S", 0.2)
    told: list[Notice] = []
    lost = Trouble("gpu1", told.append)
    lost.begin("cut")
    lost.begin("no route to host")
    wait_until(lambda: told)
    lost.end()
    lost.end()
    assert told[0] == LinkLost("gpu1", "no route to host")
    assert isinstance(told[1], LinkBack)
    assert told[1].away_s >= 0.2
    assert len(told) == 2


def test_a_notice_that_cannot_be_written_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr ends nothing."""
    monkeypatch.setattr(trouble, "_TELL_AFTER_S", 0.0)
    tries: list[float] = []

    def closed(_: Notice) -> None:
        tries.append(time.monotonic())
        raise BrokenPipeError

    lost = Trouble("gpu1", closed)
    lost.begin("cut")
    wait_until(lambda: tries)
    lost.end()
    assert len(tries) == 2


def test_only_what_changes_something_may_have_been_done() -> None:
    """Kind and reason of the error stay, so that the exit code does."""
    error = errors.TryAgainError("away", reason="x")
    assert with_unknown_outcome(error, wire.GetJobRequest(), "gpu1") is error
    submit = with_unknown_outcome(error, wire.SubmitJobRequest(), "gpu1")
    assert (type(submit), submit.reason) == (errors.TryAgainError, "x")
    assert "started all the same" in str(submit)
    assert "agentctl -H gpu1 ls" in str(submit)
    stop = with_unknown_outcome(error, wire.StopJobRequest(), "gpu1")
    assert "done all the same" in str(stop)


def test_what_a_notice_is_can_be_said_with_the_packages_own_names() -> None:
    """Whoever passes `on_notice` needs no module of ours but the first."""
    assert set(agentctl.__all__) >= {"LinkBack", "LinkLost", "Notice", "OnNotice"}
    assert agentctl.LinkLost is LinkLost
    assert agentctl.LinkBack is LinkBack
    assert all(getattr(agentctl, name) is not None for name in agentctl.__all__)
