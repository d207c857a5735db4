"""State directories and specs for tests of the server's runtime."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.core.job import Cause, Ended, ExitStatus, JobSpec, ResourceUsage
from agentd.paths import Paths, prepare
from agentd.system import jobdir

ENDED = Ended(5, 9, 4, ExitStatus(0), Cause.SELF, ResourceUsage(0.1, 0.2, 4096))


def make_paths(directory: Path) -> Paths:
    """Return the places of an agent below `directory`, made and checked."""
    os.chmod(directory, 0o700)
    paths = Paths(f"{directory}/state", f"{directory}/run", f"{directory}/config.toml")
    prepare(paths)
    return paths


def make_spec(job_id: int, *, key: str = "", name: str = "", **labels: str) -> JobSpec:
    """Return the spec of a job that runs true(1)."""
    return JobSpec(
        id=job_id,
        uid=f"{job_id:032x}",
        idempotency_key=key,
        submitted_at_ns=1_000 + job_id,
        argv=("true",),
        cwd="/",
        environment={"PATH": "/bin:/usr/bin", "SECRET": "hunter2"},
        name=name,
        labels=labels,
    )


def make_directory(paths: Paths, spec: JobSpec, *, live: bool = True) -> str:
    """Make marker and directory as a submit does."""
    if live:
        Path(f"{paths.live}/{spec.id}").touch()
    directory = paths.job(spec.id)
    jobdir.create(directory, spec)
    return directory
