"""Making a job's directory from a draft: checked, complete and durable, or not there at all.

Runs on the disk's threads, because fsync(2) blocks.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace

from agentd.core.guard.model import MemAction
from agentd.core.job import FileOutput, JobSpec, Output
from agentd.paths import Paths
from agentd.server.runtime.login import as_after_login
from agentd.server.runtime.markers import make_marker
from agentd.server.runtime.model import Defaults, JobDraft
from agentd.server.runtime.validate import validate
from agentd.system import clock, jobdir
from agentd.system.files import fsync_directory, system_error


def make_job(
    paths: Paths, draft: JobDraft, defaults: Defaults, next_id: Callable[[], int]
) -> JobSpec:
    """Check the draft, then make marker and directory. An id is taken only after the check.

    Raises:
        InvalidSpecError: The draft is wrong; nothing was made.
        DiskFullError: There is no room; what was made is removed again.
        SystemCallError: The kernel refuses; the same.

    """
    if draft.as_login:
        draft = as_after_login(draft)
    validate(draft)
    while True:
        spec = fill_in(draft, defaults, next_id())
        if not os.path.lexists(paths.job(spec.id)):
            break
        # Put there by hand, from a backup perhaps: not ours to write into or to remove.
    try:
        make_marker(paths, spec.id)
        jobdir.create(paths.job(spec.id), spec)
        fsync_directory(paths.jobs)
    except OSError as error:
        unmake_job(paths, spec.id)
        raise system_error("make the job's directory", error) from error
    return spec


def _one_way(output: Output) -> Output:
    """Return the output as it is told: two streams in one file are not kept apart."""
    if not isinstance(output, FileOutput) or output.stderr_path is None:
        return output
    if os.path.normpath(output.stdout_path) != os.path.normpath(output.stderr_path):
        return output
    return replace(output, stderr_path=None)


def unmake_job(paths: Paths, job_id: int) -> None:
    """Remove what there is of a job that was never acknowledged: the marker last."""
    shutil.rmtree(paths.job(job_id), ignore_errors=True)
    try:
        os.unlink(f"{paths.live}/{job_id}")
    except OSError:
        # It stays for recovery, which finds no spec.json and removes it.
        pass


def fill_in(draft: JobDraft, defaults: Defaults, job_id: int) -> JobSpec:
    """Return the spec: defaults filled in, and the variables by which a job knows itself."""
    uid = uuid.uuid4().hex
    environment = {
        "PYTHONUNBUFFERED": "1",
        **draft.environment,
        # Over what was inherited: a job may submit jobs.
        "AGENTCTL_JOB_ID": str(job_id),
        "AGENTCTL_JOB_NAME": draft.name,
        "AGENTCTL_JOB_UID": uid,
    }
    return JobSpec(
        id=job_id,
        uid=uid,
        idempotency_key=draft.idempotency_key,
        submitted_at_ns=clock.wall_ns(),
        argv=draft.argv,
        cwd=draft.cwd,
        environment=environment,
        name=draft.name,
        labels=dict(draft.labels),
        timeout_s=draft.timeout_s,
        grace_s=defaults.grace_s if draft.grace_s is None else draft.grace_s,
        output=_one_way(draft.output),
        stdin_path=draft.stdin_path,
        umask=draft.umask,
        mem_limit_bytes=draft.mem_limit_bytes,
        mem_action=draft.mem_action or MemAction.KILL,
        preemptible=draft.preemptible,
        requeue_limit=draft.requeue_limit,
        requeue_count=draft.requeue_count,
        requeue_of=draft.requeue_of,
        log_segment_bytes=draft.log_segment_bytes or defaults.log_segment_bytes,
        log_retention_bytes=draft.log_retention_bytes or defaults.log_retention_bytes,
        resource_limits=dict(draft.resource_limits),
    )
