"""Why a job ended: one table, and the rules behind it."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.ending import (
    cause_of_end,
    killed_by_kernel,
    killed_by_somebody,
    signal_name,
)
from agentd.core.job import Cause, ExitStatus

OK = ExitStatus(0)
FAILED = ExitStatus(7 << 8)
TERMINATED = ExitStatus(signal.SIGTERM)
KILLED = ExitStatus(signal.SIGKILL)
DUMPED = ExitStatus(signal.SIGSEGV | 0x80)
NONE: frozenset[int] = frozenset()
TERM = frozenset({int(signal.SIGTERM)})
STOPPED = (Cause.USER, "")
TIMED_OUT = (Cause.TIMEOUT, "stopped after its timeout of 5 s")
BY_ITSELF = (Cause.SELF, "")

TABLE: dict[str, tuple[ExitStatus, tuple[Cause, str] | None, frozenset[int], tuple[Cause, str]]] = {
    "it exited": (OK, None, NONE, BY_ITSELF),
    "it failed": (FAILED, None, NONE, BY_ITSELF),
    "it crashed": (DUMPED, None, NONE, BY_ITSELF),
    "somebody killed it": (KILLED, None, NONE, BY_ITSELF),
    "by the signal that was sent": (
        TERMINATED,
        None,
        TERM,
        (Cause.USER, "ended by SIGTERM as the user asked"),
    ),
    "by another one than was sent": (KILLED, None, TERM, BY_ITSELF),
    "it handled the signal and exited": (FAILED, None, TERM, BY_ITSELF),
    "exit code 15 is no SIGTERM": (ExitStatus(15 << 8), None, TERM, BY_ITSELF),
    "with a core by the signal that was sent": (
        DUMPED,
        None,
        frozenset({int(signal.SIGSEGV), int(signal.SIGTERM)}),
        (Cause.USER, "ended by SIGSEGV as the user asked"),
    ),
    "stopped": (TERMINATED, STOPPED, NONE, STOPPED),
    "stopped, and it exited orderly": (OK, STOPPED, NONE, STOPPED),
    "its time was over": (KILLED, TIMED_OUT, NONE, TIMED_OUT),
    "a stop counts more than a signal": (TERMINATED, TIMED_OUT, TERM, TIMED_OUT),
    "what it left behind was stopped": (FAILED, BY_ITSELF, NONE, BY_ITSELF),
}


@pytest.mark.parametrize(("status", "stop", "sent", "expected"), TABLE.values(), ids=TABLE.keys())
def test_the_cause_of_an_end(
    status: ExitStatus,
    stop: tuple[Cause, str] | None,
    sent: frozenset[int],
    expected: tuple[Cause, str],
) -> None:
    """Row by row."""
    assert cause_of_end(status, stop, sent) == expected


@given(
    st.integers(0, 0xFFFF).map(ExitStatus),
    st.none() | st.tuples(st.sampled_from(Cause), st.text()),
    st.frozensets(st.integers(1, 64)),
)
def test_every_end_has_a_cause_on_one_line(
    status: ExitStatus, stop: tuple[Cause, str] | None, sent: frozenset[int]
) -> None:
    """Whatever wait(2) may say; the user only where a signal of his was the end."""
    cause, reason = cause_of_end(status, stop, sent)

    if stop is not None:
        assert (cause, reason) == stop
    else:
        assert (cause == Cause.USER) == (status.signal_number in sent)
        assert "\n" not in reason


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (15, "SIGTERM"), (40, "signal 40"), (0, "signal 0"), (99, "signal 99")],
)
def test_a_signal_is_called_by_its_name(number: int, name: str) -> None:
    """One without a name by its number."""
    assert signal_name(number) == name


VERDICT = "33.1 of 32 GiB"
BY_GUARD = (Cause.GUARD, VERDICT)
BY_KERNEL = (Cause.UNKNOWN, "probably the kernel")
KILL = frozenset({int(signal.SIGKILL)})


@pytest.mark.parametrize(
    ("status", "stop", "sent", "expected"),
    [
        (KILLED, None, NONE, BY_GUARD),
        (TERMINATED, None, NONE, BY_GUARD),
        (KILLED, STOPPED, NONE, STOPPED),
        (KILLED, TIMED_OUT, NONE, TIMED_OUT),
        (KILLED, None, KILL, BY_GUARD),
        (OK, None, NONE, BY_ITSELF),
        (DUMPED, None, NONE, BY_ITSELF),
    ],
    ids=["killed", "terminated", "user", "timeout", "user's signal", "exited", "crashed"],
)
def test_a_verdict_of_the_guard(
    status: ExitStatus,
    stop: tuple[Cause, str] | None,
    sent: frozenset[int],
    expected: tuple[Cause, str],
) -> None:
    """It counts where no stop was under way and the signal is the guard's."""
    assert cause_of_end(status, stop, sent, VERDICT, BY_KERNEL) == expected


@pytest.mark.parametrize(
    ("status", "stop", "sent", "expected"),
    [
        (KILLED, None, NONE, BY_KERNEL),
        (KILLED, STOPPED, NONE, STOPPED),
        (KILLED, None, KILL, (Cause.USER, "ended by SIGKILL as the user asked")),
        (TERMINATED, None, NONE, BY_ITSELF),
        (FAILED, None, NONE, BY_ITSELF),
    ],
    ids=["killed", "stopped", "user's signal", "terminated", "exited"],
)
def test_a_kill_by_the_kernel(
    status: ExitStatus,
    stop: tuple[Cause, str] | None,
    sent: frozenset[int],
    expected: tuple[Cause, str],
) -> None:
    """It counts for a SIGKILL that nobody we know has sent."""
    assert cause_of_end(status, stop, sent, None, BY_KERNEL) == expected


def test_what_the_kernel_did_is_one_line() -> None:
    """The limit and where the kernel's lay, the host, or a guess that says that it is one."""
    limit_bytes = 32 << 30
    assert killed_by_kernel(limit_bytes, limit_bytes * 105 // 100) == (
        Cause.GUARD,
        "stopped by the kernel: over its limit of 32.0 GiB (memory.max 33.6 GiB)",
    )
    assert killed_by_kernel(limit_bytes, None)[1].endswith("over its limit of 32.0 GiB")
    assert killed_by_kernel(None, None)[1] == "stopped by the kernel: the host was out of memory"
    assert killed_by_somebody(0) is None
    assert killed_by_somebody(-1) is None
    for count, words in ((1, "it killed 1 process on"), (3, "it killed 3 processes on")):
        guess = killed_by_somebody(count)
        assert guess is not None
        assert guess[0] == Cause.UNKNOWN
        assert words in guess[1]
