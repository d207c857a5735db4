"""A server killed at each step of a job's life, and what its successor makes of it.

The child process is a supervisor with a warden played on the other end of its link; it is
killed at a named point. The test then starts another on the same directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.core import contract
from agentd.core.contract import JobView
from agentd.core.job import Ended
from tests.unit.agentd.server.places import ENDED, make_paths
from tests.unit.agentd.server.test_requeue import AGAIN, BY_GUARD, WELL
from tests.unit.agentd.server.wardenpeer import DRAFT, begin, bench, on_disk

ROOT = Path(__file__).resolve().parents[4]
KEYED = replace(DRAFT, idempotency_key="k1")
VIEW = JobView(1, "running", 5, 42, 1000, 41)

_VICTIM = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.server.test_crash_points import KEYED
from tests.unit.agentd.server.wardenpeer import bench

async def main():
    async with bench(make_paths(Path(sys.argv[1]))) as at:
        job_id = await at.ended(KEYED)
        await at.supervisor.remove(job_id, "rm")

asyncio.run(main())
"""


_REQUEUEING = """
import asyncio, sys
from pathlib import Path
from agentd.server.runtime import requeue
from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.server.test_requeue import AGAIN, BY_GUARD, WELL
from tests.unit.agentd.server.wardenpeer import bench

requeue.FIRST_BACKOFF_S = 0.01

async def main(begin):
    async with bench(make_paths(Path(sys.argv[1]))) as at:
        if begin:
            await at.ended(AGAIN, BY_GUARD)
        async with at.guarding(WELL):
            await asyncio.Event().wait()

asyncio.run(main(BEGIN))
"""


def kill_at(paths_of: Path, point: str, victim: str = _VICTIM) -> None:
    """Run a server through a job's whole life and have it killed at this point."""
    crashes = paths_of / "crashes"
    crashes.mkdir()
    (crashes / point).touch()

    done = subprocess.run(
        [sys.executable, "-c", victim, str(paths_of)],
        cwd=ROOT,
        env={**os.environ, "AGENTD_CRASH_DIR": str(crashes)},
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    assert list(crashes.iterdir()) == []


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Path:
    """Yield a directory for an agent."""
    return tmp_path


@pytest.mark.parametrize("point", ["server.submit.begin", "server.submit.before_spec"])
def test_before_the_spec_there_is_no_job(home: Path, point: str) -> None:
    """Nothing is left of it, and the client's second try is the first job."""
    kill_at(home, point)
    paths = make_paths(home)

    async def check() -> None:
        async with bench(paths) as at:
            assert on_disk(paths) == (set(), set())
            await at.heard_nothing()
            await at.submit(KEYED)

    asyncio.run(check())


@pytest.mark.parametrize(
    "point", ["server.submit.dir_made", "server.submit.indexed", "server.submit.launched"]
)
def test_after_the_spec_the_job_is_launched_and_is_the_keys(home: Path, point: str) -> None:
    """Acknowledged or not: the second try finds it, and it runs once."""
    kill_at(home, point)
    paths = make_paths(home)

    async def check() -> None:
        async with bench(paths) as at:
            assert (await at.heard(contract.Launch)).job_id == 1
            assert (await at.supervisor.submit(KEYED)).spec.id == 1
            await at.heard_nothing()
            begin(paths, 1)
            at.end(1)
            assert await at.state(1, Ended) == ENDED
            await at.settled(1)

    asyncio.run(check())


def test_a_start_that_was_reported_to_a_dying_server_shows(home: Path) -> None:
    """The warden's view brings it back; the job is not launched again."""
    kill_at(home, "server.started.received")
    paths = make_paths(home)

    async def check() -> None:
        async with bench(paths, VIEW) as at:
            await at.heard_nothing()
            assert at.events(1)[-1] == "job.adopted"
            at.end(1)
            assert await at.state(1, Ended) == ENDED

    asyncio.run(check())


@pytest.mark.parametrize(
    "point", ["server.end.received", "server.end.indexed", "server.end.live_removed"]
)
def test_an_end_is_indexed_once(home: Path, point: str) -> None:
    """Whether the index had it or not: one event, no marker."""
    kill_at(home, point)
    paths = make_paths(home)

    async def check() -> None:
        async with bench(paths) as at:
            assert at.supervisor.get(1).state == ENDED
            assert at.events(1).count("job.ended") == 1
            assert on_disk(paths) == ({"1"}, set())
            await at.heard_nothing()

    asyncio.run(check())


@pytest.mark.parametrize(
    "point", ["server.remove.renamed", "server.remove.dropped", "server.remove.id_kept"]
)
def test_a_removal_is_whole_or_did_not_begin(home: Path, point: str) -> None:
    """Decided by the rename; the id is not used again in any case."""
    kill_at(home, point)
    paths = make_paths(home)

    async def check() -> None:
        async with bench(paths) as at:
            if point == "server.remove.id_kept":
                assert at.supervisor.get(1).state == ENDED
                await at.supervisor.remove(1, "rm")
            assert on_disk(paths) == (set(), set())
            assert at.supervisor.counts() == (0, 0)
            assert (await at.submit()).spec.id == 2

    asyncio.run(check())


async def pay_off(home: Path) -> None:
    """Start a server that finds a requeue owed, or paid by halves, and check what comes of it."""
    paths = make_paths(home)
    async with bench(paths) as at, at.guarding(WELL):
        await at.happened(1, "job.requeued")
        # An id whose directory was never completed is not given again.
        successor = at.supervisor.get(1).spec.requeued_as
        assert successor is not None
        assert at.supervisor.get(successor).spec.requeue_of == 1
        assert at.events(1).count("job.requeued") == 1
        assert on_disk(paths)[0] == {"1", str(successor)}


@pytest.mark.parametrize("point", ["server.end.received", "server.end.indexed"])
def test_a_requeue_becomes_owed_with_the_end(
    home: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the index had the end or not."""
    monkeypatch.setattr("agentd.server.runtime.requeue.FIRST_BACKOFF_S", 0.01)
    kill_at(home, point, _REQUEUEING.replace("BEGIN", "True"))

    asyncio.run(pay_off(home))


@pytest.mark.parametrize(
    "point",
    [
        "server.submit.begin",
        "server.submit.before_spec",
        "server.submit.dir_made",
        "server.submit.indexed",
        "server.submit.launched",
        "server.requeue.submitted",
        "server.requeue.noted",
    ],
)
def test_a_requeue_is_neither_lost_nor_doubled(
    home: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor is found by the key that its predecessor gave it."""

    async def owe() -> None:
        async with bench(make_paths(home)) as at:
            await at.ended(AGAIN, BY_GUARD)

    asyncio.run(owe())
    kill_at(home, point, _REQUEUEING.replace("BEGIN", "False"))
    monkeypatch.setattr("agentd.server.runtime.requeue.FIRST_BACKOFF_S", 0.01)

    asyncio.run(pay_off(home))


def test_every_point_of_the_server_is_killed_at() -> None:
    """A point that is added to the server is added here."""
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "agent/agentd").rglob("*.py")
    )
    points = {word for word in source.split('"') if word.startswith("server.") and "." in word[7:]}
    here = Path(__file__).read_text(encoding="utf-8")

    assert {point for point in points if f'"{point}"' not in here} == set()
