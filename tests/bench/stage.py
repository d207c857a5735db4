"""What the measurements share: a directory, the probe, and agents as a user has them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.probe import build
from tests.helpers.agent import Agent, private_agent
from tests.helpers.wait import wait_until

if TYPE_CHECKING:
    from agentctl import Client


@dataclass(frozen=True, slots=True)
class Stage:
    """Where one measurement happens."""

    directory: str
    #: Argument vector of the probe.
    probe: tuple[str, ...]

    def fresh(self, name: str) -> str:
        """Return a new, empty directory for one rival."""
        path = tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory)
        os.chmod(path, 0o700)
        return path


@contextmanager
def stage() -> Iterator[Stage]:
    """Yield a stage in a short directory of its own, which is gone afterwards."""
    directory = tempfile.mkdtemp(prefix="ab-", dir="/tmp")
    try:
        yield Stage(directory, build(directory))
    finally:
        shutil.rmtree(directory)


@contextmanager
def running_agent() -> Iterator[tuple[Agent, Client]]:
    """Yield a started private agent without crash points, and a warm client of it."""
    with cold_agent() as agent:
        agent.start()
        with agent.client() as client:
            client.list()
            yield agent, client


@contextmanager
def cold_agent() -> Iterator[Agent]:
    """Yield a private agent that nobody has started."""
    with private_agent() as agent:
        # Looking for crash points is a cost that only tests have.
        del agent.env["AGENTD_CRASH_DIR"]
        yield agent
        agent.end_processes()
        _set_aside(agent.state_dir)


#: State directories of measurements that are over.
_ATTIC = f"/tmp/ab-attic-{os.getpid()}"  # private by its mode


def _set_aside(directory: str) -> None:
    """Keep it to the end: ext4 looks long for a free inode among freshly deleted ones.

    For minutes after thousands of files were deleted each new one is far dearer
    (recently_deleted() in fs/ext4/ialloc.c, where there is no journal): the next run would pay.
    """
    os.makedirs(_ATTIC, 0o700, exist_ok=True)
    os.rename(directory, tempfile.mkdtemp(dir=_ATTIC))


def clear() -> None:
    """Remove what was set aside; once, at the end."""
    shutil.rmtree(_ATTIC, ignore_errors=True)


def none_live(agent: Agent) -> Callable[[], bool]:
    """Return a probe: every exit record is durable and in the index."""
    return lambda: not os.listdir(f"{agent.state_dir}/live")


def wait_all_over(agent: Agent, deadline_s: float = 300) -> None:
    """Wait until every job submitted so far has its exit record."""
    wait_until(none_live(agent), deadline_s=deadline_s, what="every exit record")
