"""Page tables are read only where there is doubt, and by somebody else if that takes long."""

from __future__ import annotations

import mmap
import os
import signal
import time

import pytest

from agentd.system import rollups
from agentd.system.memory.readings import Reading
from agentd.system.memory.tree import Census
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.memory.rigs import (
    MIB,
    anonymous,
    charge,
    fresh,
    gauge_of,
    holder,
    touch,
)
from tests.unit.agentd.system.sandbox import fork, hang

#: More than is read at once.
_LARGE_BYTES = 160 * MIB
_SELF = "/proc/self/smaps_rollup"


class Forked:
    """Has each reading done by a child; `pids` are those who did."""

    def __init__(self) -> None:
        """Nobody yet."""
        self.pids: list[int] = []

    def order(self, reading: Reading) -> None:
        """Have it done."""
        answers, pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(pipe, True)
        self.pids.append(fork(lambda: rollups.write(reading.paths, pipe)))
        os.close(pipe)
        reading.listen(answers)


@fresh
def test_a_job_that_is_one_process_is_charged_without_reading() -> None:
    """What it has for itself is nearly all there is."""
    pid = holder(lambda: anonymous(_LARGE_BYTES))
    reader = Forked()
    gauge = gauge_of(pid, census=Census(reader=reader))

    sample = gauge.charge(time.monotonic_ns())

    assert sample.charge is not None
    assert not sample.is_measuring
    assert reader.pids == []
    assert sample.upper_bytes * 15 // 16 <= sample.charge.held_bytes <= sample.upper_bytes
    gauge.close()


@fresh
def test_a_large_job_in_doubt_is_measured_beside() -> None:
    """The guard looks at others meanwhile; what was begun before a change is forgotten."""
    shared = anonymous(_LARGE_BYTES, mmap.MAP_SHARED)
    workers = [holder(lambda: touch(shared, _LARGE_BYTES)) for _ in range(4)]
    shared.close()
    reader = Forked()
    gauge = gauge_of(*workers, census=Census(reader=reader))

    assert gauge.charge(time.monotonic_ns()).is_measuring
    gauge.start_anew()
    sample, held_charge = charge(gauge)

    assert sample.upper_bytes >= 4 * _LARGE_BYTES
    assert _LARGE_BYTES <= held_charge.held_bytes < 2 * _LARGE_BYTES
    assert len(reader.pids) == 2
    gauge.close()


@fresh
def test_a_reader_that_is_killed_is_followed_by_another() -> None:
    """Answers that are not all there are none."""
    shared = anonymous(_LARGE_BYTES, mmap.MAP_SHARED)
    workers = [holder(lambda: touch(shared, _LARGE_BYTES)) for _ in range(2)]
    reader = Forked()
    reading = Reading([_SELF, _SELF])
    answers, pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = fork(lambda: rollups.write([_SELF], pipe), hang)
    os.close(pipe)
    reading.listen(answers)
    assert not reading.is_done
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not reading.is_done and reading.is_lost, what="its end is seen")

    gauge = gauge_of(*workers, census=Census(reader=reader))
    sample = gauge.charge(time.monotonic_ns())
    os.kill(reader.pids[0], signal.SIGKILL)
    assert sample.is_measuring
    charge(gauge)
    gauge.close()


@fresh
def test_what_the_kernel_said_is_passed_on_whole() -> None:
    """Texts, and errors as what they are."""
    reading = Reading([_SELF, "/proc/self/none", f"/proc/{1 << 22}/status", *[_SELF] * 300])
    Forked().order(reading)

    wait_until(lambda: reading.is_done, what="the answers")

    text, none, nobody, *rest = reading.answers
    assert isinstance(text, bytes)
    assert b"Pss:" in text
    assert isinstance(none, FileNotFoundError)
    assert isinstance(nobody, FileNotFoundError)
    assert len(rest) == 300
    assert all(isinstance(answer, bytes) for answer in rest)


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_answer_that_was_cut_short_is_none(cut: int) -> None:
    """Those before it count."""
    data = b"3\nabc-3\n5\nhello"

    assert rollups.parse(data)[0] == b"abc"
    assert len(rollups.parse(data)) == 3
    assert len(rollups.parse(data[:-cut])) < 3
