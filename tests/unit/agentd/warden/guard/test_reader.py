"""Page tables read by order of the guard, in a process of the spawner's."""

from __future__ import annotations

import os
import resource
import signal
from types import SimpleNamespace
from typing import cast

from agentd.shim.leader import Origin
from agentd.system.memory.readings import Reading
from agentd.warden.guard.reader import SpawnedReader
from agentd.warden.shims import Shims
from agentd.warden.spawner import Spawner
from tests.helpers.descriptors import held
from tests.helpers.wait import wait_until
from tests.unit.agentd.system.sandbox import isolated


def spawner() -> Spawner:
    """Return a real one."""
    return Spawner(Origin(0o022, resource.getrlimit(resource.RLIMIT_NOFILE)))


def reader_of(one: Spawner) -> SpawnedReader:
    """Return a reader that has this spawner."""
    return SpawnedReader(cast("Shims", SimpleNamespace(spawner=one)))


@isolated
def test_the_spawner_has_it_read() -> None:
    """And nothing stays open of it."""
    reader = reader_of(spawner())
    before = held()
    me = os.getpid()
    reading = Reading([f"/proc/{me}/smaps_rollup", f"/proc/{me}/task/{me}/smaps_rollup", "/none"])

    reader.order(reading)

    wait_until(lambda: reading.is_done, what="the answers")
    first, second, none = reading.answers
    assert isinstance(first, bytes)
    assert b"Pss:" in first
    assert isinstance(second, bytes | FileNotFoundError)
    assert isinstance(none, FileNotFoundError)
    assert held() <= before


@isolated
def test_a_job_of_thousands_of_processes_is_read_as_well() -> None:
    """More paths than any packet takes."""
    reading = Reading(["/proc/self/stat"] * 5000)

    reader_of(spawner()).order(reading)

    wait_until(lambda: reading.is_done, what="the answers")
    assert len(reading.answers) == 5000


@isolated
def test_without_a_spawner_the_reading_is_lost() -> None:
    """It is wanted again later; the guard does not wait for page tables."""
    one = spawner()
    os.kill(one.pid, signal.SIGKILL)
    os.waitpid(one.pid, 0)
    reading = Reading(["/proc/self/smaps_rollup"])

    reader_of(one).order(reading)

    assert (reading.is_done, reading.is_lost) == (False, True)
