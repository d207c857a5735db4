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
    assert held() == before


@isolated
def test_without_a_spawner_it_is_read_at_once() -> None:
    """Also if there are more paths than an order takes."""
    one = spawner()
    os.kill(one.pid, signal.SIGKILL)
    os.waitpid(one.pid, 0)
    for paths in (["/proc/self/smaps_rollup"], ["/none"] * 2000):
        reading = Reading(paths)
        reader_of(one).order(reading)
        wait_until(lambda: reading.is_done, what="the answers")  # noqa: B023  # called at once
        assert len(reading.answers) == len(paths)
