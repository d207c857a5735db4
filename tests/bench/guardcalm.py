"""What looks like a hog and is none: how often each guard acts on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.guards import GIB, guarded_agent, meminfo_bytes, rivals
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.helpers.hogs import Progress, ProgressFile, hog, progress_file
from tests.helpers.wait import wait_until

if TYPE_CHECKING:
    from agentctl import Client

_SHARED_BYTES = 4 * GIB
_STORM = 300
_ROUNDS = 32
#: Of the guard's events those that a job feels.
_ACTS = frozenset({"guard.paused", "guard.terminated", "guard.killed"})


@dataclass(frozen=True, slots=True)
class _Innocent:
    """A job that no guard may touch."""

    name: str
    argv: tuple[str, ...]
    mem_bytes: int
    #: None: it ends by itself, with status 0.
    is_done: Callable[[Progress], object] | None = None


def measure(stage: Stage) -> list[Row]:
    """Return the acts on each innocent job, ours beside those of a rival that ran all the while."""
    rows = []
    with guarded_agent("") as (_agent, client), ExitStack() as stack:
        others = {
            name: stack.enter_context(start(stage.fresh(name), 0))
            for name, start in rivals().items()
        }
        for prepare in (_sharers, _page_cache, _storm, _mapped):
            before = {name: daemon.acts() for name, daemon in others.items()}
            with prepare(stage) as (innocent, progress):
                ours = _acts_on(client, innocent, progress)
            acts = {name: daemon.acts() - before[name] for name, daemon in others.items()}
            rows += [
                Row(f"acts on {innocent.name}", ours, "", rival, theirs, "0", ours == 0)
                for rival, theirs in acts.items() or {"none installed": None}.items()
            ]
    return rows


def _acts_on(client: Client, innocent: _Innocent, progress: ProgressFile) -> int:
    job = client.submit(innocent.argv, mem=innocent.mem_bytes)
    if innocent.is_done is None:
        ended = client.wait(job.id, timeout_s=300)
        unharmed = ended.exit_code == 0
    else:
        done = innocent.is_done
        wait_until(lambda: done(progress.read()), deadline_s=300, what=innocent.name)
        unharmed = client.get(job.id).state == "running"
        client.stop(job.id)
        client.wait(job.id, timeout_s=60)
    told = sum(event.kind in _ACTS for event in client.events(job_ids=[job.id]))
    return max(told, not unharmed)


_Prepared = Iterator[tuple[_Innocent, ProgressFile]]


@contextmanager
def _sharers(_stage: Stage) -> _Prepared:
    with progress_file() as progress:
        argv = hog("share", progress, _SHARED_BYTES, processes=16)
        name = "16 workers sharing 4 GiB, limit 6 GiB"
        yield _Innocent(name, argv, 6 * GIB, lambda seen: seen.rounds >= _ROUNDS), progress


@contextmanager
def _page_cache(stage: Stage) -> _Prepared:
    with _sparse(stage, 2 * meminfo_bytes("MemTotal")) as path, progress_file() as progress:
        argv = ("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none")
        yield _Innocent("reading 2 x RAM, limit 1 GiB", argv, GIB), progress


@contextmanager
def _storm(_stage: Stage) -> _Prepared:
    with progress_file() as progress:
        argv = hog("storm", progress, _SHARED_BYTES, count=_STORM, exit=1)
        name = f"{_STORM} x fork and exec from 4 GiB, limit 6 GiB"
        yield _Innocent(name, argv, 6 * GIB), progress


@contextmanager
def _mapped(stage: Stage) -> _Prepared:
    with _sparse(stage, 2 * GIB) as path, progress_file() as progress:
        argv = hog("mapped", progress, 2 * GIB, file=path, exit=1)
        yield _Innocent("a mapped file of 2 GiB, limit 1 GiB", argv, GIB), progress


@contextmanager
def _sparse(stage: Stage, size_bytes: int) -> Iterator[str]:
    """Yield a file that is read without a disk; its pages are cached like any other's."""
    path = f"{stage.fresh('file')}/file"
    Path(path).touch(0o600)
    os.truncate(path, size_bytes)
    yield path
    os.unlink(path)
