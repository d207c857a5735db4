"""What server, warden and shim say to each other."""

from __future__ import annotations

import json

import pytest

from agentd.core import contract
from agentd.core.contract import JobView, Message, decode, encode
from agentd.core.job import Cause, OutputKind

VIEW = JobView(7, "stopping", 5, 42, 1000, 41, Cause.TIMEOUT)
NOTICE = contract.GuardNotice(contract.NoticeKind.PAUSED, 9, "paused by the guard", 7)
GUARDED = contract.GuardJob(7, 4 << 30, 3 << 30, 2 << 30, 1 << 20, "over its own limit")
REPORT = contract.GuardReport(
    3,
    enabled=True,
    dry_run=False,
    layers=("sampling: every 2 ms to 1 s", "cgroup: not delegated"),
    host_total_bytes=24 << 30,
    host_available_bytes=5 << 30,
    host_rate_bytes_per_s=1 << 20,
    exhausted_after_s=12.5,
    warn_bytes=4 << 30,
    pause_bytes=3 << 30,
    term_bytes=2 << 30,
    kill_bytes=1 << 30,
    jobs=(GUARDED, contract.GuardJob(8, None, None, None, 0, "not looked at yet")),
    notices=(NOTICE,),
)
MESSAGES: tuple[Message, ...] = (
    contract.Launch(7, OutputKind.SPLIT),
    contract.Stop(7, 2.5, Cause.GUARD),
    contract.SendSignal(7, 10),
    contract.Pause(7),
    contract.Resume(7),
    contract.Sweep(7, 1.0),
    contract.SetGuard(
        enabled=True,
        dry_run=False,
        pause_limit_s=600.0,
        warn=(15.0, 16 << 30),
        pause=(8.0, 8 << 30),
        term=(5.0, 4 << 30),
        kill=(2.5, 2 << 30),
    ),
    contract.UseCgroup("/user.slice/agent", 40),
    contract.ReportGuard(3),
    contract.Ready("/run/agentd/agent.sock"),
    contract.Shutdown(),
    VIEW,
    contract.Hello(1, 2, (VIEW, JobView(8, "starting"))),
    contract.JobStarted(7, 5, 42, 1000, 41),
    contract.JobPaused(7),
    contract.JobResumed(7),
    contract.JobStopping(7, Cause.USER),
    contract.ShimReplaced(7, 77),
    contract.JobRecorded(7),
    contract.JobGone(7, rebooted=True, surviving_pids=(4, 5)),
    contract.Refused(7, "Launch", "no more processes"),
    contract.SpawnerStarted(43),
    NOTICE,
    GUARDED,
    REPORT,
    contract.Drain(),
    contract.Adopt(),
    contract.Adopted(VIEW, ("out", "err")),
    contract.LeaderExited(7, 256, 0.5, 0.25, 4096),
)


def test_samples_cover_every_message() -> None:
    """The tests below walk all there are."""
    # By name: a class with slots is made twice, and the first of the two may still be listed.
    names = {kind.__name__ for kind in Message.__subclasses__()}

    assert {type(message).__name__ for message in MESSAGES} == names


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    """Encoded and decoded, types of nested values included."""
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line(message: Message) -> None:
    """The newline parts messages; none stands inside."""
    assert b"\n" not in encode(message)


def test_a_newline_in_a_text_stays_inside_its_message() -> None:
    """A reason may hold anything."""
    message = contract.Refused(7, "Launch", "two\nlines")

    assert b"\n" not in encode(message)
    assert decode(encode(message)) == message


def test_a_type_of_a_later_version_is_skipped() -> None:
    """A newer peer may say more than we understand."""
    assert decode(b'{"type": "Hibernate", "job_id": 7}') is None
    assert decode(b'{"job_id": 7}') is None


def test_a_field_of_a_later_version_is_skipped() -> None:
    """What is known of the message counts."""
    assert decode(b'{"type": "Pause", "job_id": 7, "mood": 3}') == contract.Pause(7)


def test_a_field_that_an_older_peer_leaves_out_has_its_default() -> None:
    """New fields come with defaults."""
    body = json.loads(encode(VIEW))
    del body["cause"], body["shim_pid"]

    assert decode(json.dumps(body).encode()) == JobView(7, "stopping", 5, 42, 1000)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"type": "Launch"}',
        b'{"type": "Launch", "job_id": 7, "output": "smoke"}',
        b'{"type": "Stop", "job_id": 7, "grace_s": 1, "cause": "weather"}',
    ],
)
def test_a_line_that_makes_no_sense_is_a_value_error(line: bytes) -> None:
    """The receiver says so and reads on."""
    with pytest.raises(ValueError):  # noqa: PT011  # which text json chooses is its own affair
        decode(line)
