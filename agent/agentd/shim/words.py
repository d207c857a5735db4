"""What a shim says to the warden: core.contract as bytes, without its classes."""

from __future__ import annotations

from agentd.system import plainjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def view(
    *,
    job_id: int,
    phase: str,
    started_at_ns: int,
    leader_pid: int,
    leader_start_ticks: int,
    shim_pid: int,
    cause: str,
) -> dict[str, object]:
    """Return a JobView, to stand in `adopted`."""
    return {
        "type": "JobView",
        "job_id": job_id,
        "phase": phase,
        "started_at_ns": started_at_ns,
        "leader_pid": leader_pid,
        "leader_start_ticks": leader_start_ticks,
        "shim_pid": shim_pid,
        "cause": cause,
    }


def adopted(job: dict[str, object], descriptors: Iterable[str]) -> bytes:
    """Return Adopted for a view and the names of the descriptors that go with it."""
    return plainjson.dumps({"type": "Adopted", "view": job, "descriptors": [*descriptors]})


def started(
    job_id: int, started_at_ns: int, leader_pid: int, leader_start_ticks: int, shim_pid: int
) -> bytes:
    """Return JobStarted."""
    return plainjson.dumps(
        {
            "type": "JobStarted",
            "job_id": job_id,
            "started_at_ns": started_at_ns,
            "leader_pid": leader_pid,
            "leader_start_ticks": leader_start_ticks,
            "shim_pid": shim_pid,
        }
    )


def paused(job_id: int) -> bytes:
    """Return JobPaused."""
    return b'{"type":"JobPaused","job_id":%d}' % job_id


def resumed(job_id: int) -> bytes:
    """Return JobResumed."""
    return b'{"type":"JobResumed","job_id":%d}' % job_id


def stopping(job_id: int, cause: str) -> bytes:
    """Return JobStopping."""
    return b'{"type":"JobStopping","job_id":%d,"cause":"%s"}' % (job_id, cause.encode())


def recorded(job_id: int) -> bytes:
    """Return JobRecorded."""
    return b'{"type":"JobRecorded","job_id":%d}' % job_id
