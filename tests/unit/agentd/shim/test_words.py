"""What a shim says and writes without the classes of core is what those classes mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core import contract, ending
from agentd.core.contract import (
    Adopted,
    JobPaused,
    JobRecorded,
    JobResumed,
    JobStarted,
    JobStopping,
    JobView,
    Message,
)
from agentd.core.job import Cause, Ended, ExitStatus, Lost, OutputKind, ResourceUsage, StartFailed
from agentd.shim import channels, records, words
from agentd.shim import ending as exit_records
from agentd.shim.plan import Plan
from agentd.shim.start import StartError
from agentd.system import kernel
from agentd.system import records as system_records

VIEW = JobView(7, "paused", 5, 42, 1000, 41, Cause.TIMEOUT)
SAID: list[tuple[bytes, Message]] = [
    (words.paused(7), JobPaused(7)),
    (words.resumed(7), JobResumed(7)),
    (words.recorded(7), JobRecorded(7)),
    (words.started(7, 5, 42, 1000, 41), JobStarted(7, 5, 42, 1000, 41)),
    *((words.stopping(7, cause), JobStopping(7, cause)) for cause in Cause),
    (
        words.adopted(
            words.view(
                job_id=7,
                phase="paused",
                started_at_ns=5,
                leader_pid=42,
                leader_start_ticks=1000,
                shim_pid=41,
                cause="timeout",
            ),
            ["out", "start"],
        ),
        Adopted(VIEW, ("out", "start")),
    ),
]
PLAN = Plan(7, 42, 1000, 5, 6, 7, -1, 100, 1000, -1, "", b"")


@pytest.mark.parametrize(("packet", "message"), SAID, ids=lambda value: type(value).__name__)
def test_a_word_is_the_message_of_the_contract(packet: bytes, message: Message) -> None:
    """Byte by byte, so that a field added on one side is missed here."""
    assert packet == contract.encode(message)
    assert contract.decode(packet) == message


def test_the_constants_are_those_of_core() -> None:
    """A shim names causes and kinds by their text."""
    causes = ending.SELF, ending.USER, ending.GUARD, ending.TIMEOUT, ending.UNKNOWN
    assert causes == (Cause.SELF, Cause.USER, Cause.GUARD, Cause.TIMEOUT, Cause.UNKNOWN)
    kinds = channels.SPLIT, channels.FILES, channels.TERMINAL
    assert kinds == (OutputKind.SPLIT, OutputKind.FILES, OutputKind.TERMINAL)
    assert records.VERSION == system_records.VERSION


@given(st.integers(0, 0xFFFF), st.sampled_from([None, (Cause.GUARD, 'said "so"')]))
def test_the_record_of_an_end_reads_as_one(wait_status: int, stop: tuple[str, str] | None) -> None:
    """With whatever status and reason."""
    seen = kernel.Ended(wait_status, 0.5, 0.25, 1 << 40)

    written = exit_records.ended(PLAN, seen, stop, frozenset())

    final = system_records.load_exit(written)
    assert isinstance(final, Ended)
    assert final.status == ExitStatus(wait_status)
    assert (final.cause, final.reason) == (stop or (Cause.SELF, ""))
    assert final.started_at_ns == 5
    assert isinstance(final.usage, ResourceUsage)
    assert final.usage.peak_memory_bytes == 1 << 40
    assert system_records.dump_exit(final) == written


def test_the_record_of_a_failed_start_reads_as_one() -> None:
    """With the step, the path and the errno."""
    written = exit_records.start_failed(StartError("execute", 2, "/no \udce4 such"))

    final = system_records.load_exit(written)
    assert isinstance(final, StartFailed)
    assert (final.errno, final.path, final.cause) == (2, "/no \udce4 such", Cause.SELF)
    assert final.reason == "cannot execute /no \udce4 such: No such file or directory"
    assert system_records.dump_exit(final) == written


def test_the_record_of_a_lost_job_reads_as_one() -> None:
    """With those that survived."""
    written = exit_records.lost("nobody saw it", 5, [42])

    final = system_records.load_exit(written)
    assert isinstance(final, Lost)
    assert (final.reason, final.started_at_ns, final.surviving_pids) == ("nobody saw it", 5, (42,))
    assert system_records.dump_exit(final) == written


@given(st.sampled_from([*Cause]), st.integers(0, 1 << 62), st.text(max_size=50))
def test_a_stop_reads_as_one(cause: Cause, kill_at_boot_ns: int, reason: str) -> None:
    """By a rescue shim and by everybody else."""
    stop = records.Stop(cause, kill_at_boot_ns, reason)
    body = {name: getattr(stop, name) for name in stop.__slots__}

    read = system_records.load_stop(records.dump(body))

    assert read == system_records.StopRecord(cause, kill_at_boot_ns, reason)
