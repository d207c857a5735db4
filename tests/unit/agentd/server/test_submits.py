"""Accepting jobs: each once for each key, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.core import contract
from agentd.core.job import (
    Starting,
)
from agentd.errors import (
    DiskFullError,
    InvalidSpecError,
    JobNotFoundError,
)
from agentd.paths import Paths
from agentd.server.runtime.model import Defaults
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_paths
from tests.unit.agentd.server.wardenpeer import (
    DRAFT,
    Bench,
    bench,
    on_disk,
)

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


def run_on(
    paths: Paths, test: Callable[[Bench], Coroutine[Any, Any, None]], *views: contract.JobView
) -> None:
    """Run the test on a bench of its own."""

    async def on_bench() -> None:
        async with bench(paths, *views) as at:
            await test(at)

    asyncio.run(on_bench())


def test_a_submit_is_on_disk_before_it_is_answered(paths: Paths) -> None:
    """Marker, directory and row are there, and the launch is asked for."""

    async def test(at: Bench) -> None:
        info = await at.submit(replace(DRAFT, name="train", labels={"team": "a"}))

        assert isinstance(info.state, Starting)
        assert on_disk(paths) == ({"1"}, {"1"})
        spec = jobdir.read_spec(paths.job(1))
        assert spec is not None
        assert (spec.id, spec.name, spec.argv) == (1, "train", ("true",))
        assert spec.environment["AGENTCTL_JOB_ID"] == "1"
        assert at.supervisor.get(1) == info
        assert at.supervisor.counts() == (1, 1)

    run_on(paths, test)


def test_one_key_is_one_job_even_at_once(paths: Paths) -> None:
    """Ten submits under one key share one job and one launch."""

    async def test(at: Bench) -> None:
        draft = replace(DRAFT, idempotency_key="k1")
        infos = await asyncio.gather(*(at.supervisor.submit(draft) for _ in range(10)))

        assert {info.spec.id for info in infos} == {1}
        await at.heard(contract.Launch)
        assert (await at.supervisor.submit(draft)).spec.id == 1
        await at.heard_nothing()

    run_on(paths, test)


def test_one_key_is_one_job_across_a_restart(paths: Paths) -> None:
    """With the index, without it, and after the job was removed."""
    draft = replace(DRAFT, idempotency_key="k1")

    async def first(at: Bench) -> None:
        await at.ended(draft)

    async def again(at: Bench) -> None:
        assert (await at.supervisor.submit(draft)).state == ENDED
        await at.heard_nothing()

    async def after_removal(at: Bench) -> None:
        await at.supervisor.remove(1, "rm")
        with pytest.raises(JobNotFoundError):
            await at.supervisor.submit(draft)
        await at.heard_nothing()

    run_on(paths, first)
    run_on(paths, again)
    os.unlink(paths.database)
    run_on(paths, again)
    run_on(paths, after_removal)


def test_submits_without_a_key_are_all_their_own(paths: Paths) -> None:
    """Nobody asked for the promise."""

    async def test(at: Bench) -> None:
        infos = await asyncio.gather(*(at.supervisor.submit(DRAFT) for _ in range(20)))

        assert sorted(info.spec.id for info in infos) == list(range(1, 21))

    run_on(paths, test)


def test_a_refused_draft_leaves_nothing_behind(paths: Paths) -> None:
    """No directory, no row, no id used up."""

    async def test(at: Bench) -> None:
        with pytest.raises(InvalidSpecError):
            await at.supervisor.submit(replace(DRAFT, argv=(), idempotency_key="k1"))

        assert on_disk(paths) == (set(), set())
        assert at.supervisor.last_seq() == 0
        assert (await at.submit(replace(DRAFT, idempotency_key="k1"))).spec.id == 1

    run_on(paths, test)


def test_a_client_that_goes_away_does_not_leave_half_a_job(paths: Paths) -> None:
    """The submit goes on without it."""

    async def test(at: Bench) -> None:
        asking = asyncio.create_task(at.supervisor.submit(replace(DRAFT, idempotency_key="k1")))
        await asyncio.sleep(0)
        asking.cancel()

        assert (await at.heard(contract.Launch)).job_id == 1
        assert isinstance(at.supervisor.get(1).state, Starting)

    run_on(paths, test)


def test_defaults_can_change_while_it_runs(paths: Paths) -> None:
    """From the next submit on."""

    async def test(at: Bench) -> None:
        await at.submit()
        at.supervisor.set_defaults(Defaults(grace_s=99.0))
        await at.submit()

        specs = [jobdir.read_spec(paths.job(job_id)) for job_id in (1, 2)]
        assert [spec.grace_s for spec in specs if spec is not None] == [10.0, 99.0]

    run_on(paths, test)


def test_an_index_without_room_refuses_a_submit_and_leaves_nothing(paths: Paths) -> None:
    """Directory and marker go again; once there is room, the next submit works."""

    async def test(at: Bench) -> None:
        await at.ended()
        connection = at.supervisor._store.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        huge = replace(DRAFT, argv=("true", "x" * 100_000))

        with pytest.raises(DiskFullError, match="disk is full"):
            await at.supervisor.submit(huge)

        assert on_disk(paths) == ({"1"}, set())
        connection.execute("PRAGMA max_page_count = 100000")
        assert isinstance((await at.submit(huge)).state, Starting)

    run_on(paths, test)


_FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from agentd.core import contract
from agentd.core.job import Ended, Stopping
from agentd.errors import DiskFullError
from tests.unit.agentd.server.places import ENDED, make_paths
from tests.unit.agentd.server.wardenpeer import DRAFT, bench, on_disk

async def main(directory):
    paths = make_paths(directory)
    async with bench(paths) as at:
        job_id = await at.started()
        other = await at.ended()
        log = Path(paths.job(other), "out-00000000000000000000.log")
        log.write_bytes(bytes(1 << 18))
        ballast = directory / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        refused = ""
        try:
            await at.supervisor.submit(DRAFT)
        except DiskFullError as error:
            refused = str(error)
        assert "disk is full" in refused, refused
        assert on_disk(paths) == ({"1", "2"}, {"1"}), on_disk(paths)
        assert isinstance((await at.supervisor.stop(job_id, 0.0, "s1")).state, Stopping)
        await at.heard(contract.Stop)
        at.end(job_id)
        assert await at.state(job_id, Ended) == ENDED
        await at.supervisor.remove(other, "rm")
        assert on_disk(paths)[0] == {"1"}, on_disk(paths)
        ballast.unlink()
        await at.settled(job_id)
        await at.submit()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.root
def test_a_full_disk_refuses_a_submit_and_no_end_is_lost(tmp_path: Path) -> None:
    """On a small tmpfs of its own: one clear line, no half-made job; stop and rm work on."""
    script = f'mount -t tmpfs -o size=2m,mode=700 none {tmp_path} && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, "-c", _FULL_DISK]

    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
