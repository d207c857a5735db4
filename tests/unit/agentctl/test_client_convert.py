"""Wire to model: every state, and nothing guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agentapi.v1 import job_pb2, job_service_pb2
from agentctl.api import convert
from agentctl.errors import ApiLevelMismatchError
from agentctl.model import Cause, Chunk, Fin, Gap, GapReason, JobState, OutputKind

T0 = Timestamp(seconds=1_740_000_000, nanos=123_456_789)


def wire_job(**state: Any) -> job_pb2.Job:  # noqa: ANN401  # one of eight messages
    """Return a job of the wire in one state."""
    return job_pb2.Job(
        id=7,
        argv=[b"cat", b"\xff"],
        cwd=b"/tmp",
        submitted_at=T0,
        output_kind=job_pb2.OUTPUT_KIND_MERGED,
        **state,
    )


STATES: dict[JobState, dict[str, Any]] = {
    JobState.QUEUED: {"queued": job_pb2.Queued()},
    JobState.STARTING: {"starting": job_pb2.Starting()},
    JobState.RUNNING: {"running": job_pb2.Running(started_at=T0, leader_pid=2, shim_pid=1)},
    JobState.PAUSED: {"paused": job_pb2.Paused(started_at=T0, leader_pid=2, shim_pid=1)},
    JobState.STOPPING: {"stopping": job_pb2.Stopping(cause=job_pb2.CAUSE_USER)},
    JobState.ENDED: {
        "ended": job_pb2.Ended(
            started_at=T0,
            ended_at=T0,
            cause=job_pb2.CAUSE_SELF,
            exit_code=0,
            usage=job_pb2.ResourceUsage(cpu_user_s=1, cpu_system_s=0.5, peak_memory_bytes=9),
        )
    },
    JobState.START_FAILED: {
        "start_failed": job_pb2.StartFailed(
            failed_at=T0, cause=job_pb2.CAUSE_SELF, reason="no", errno=2, path=b"/x"
        )
    },
    JobState.LOST: {
        "lost": job_pb2.Lost(noticed_at=T0, cause=job_pb2.CAUSE_REBOOT, surviving_pids=[5])
    },
}


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_form_on_the_wire(state: JobState) -> None:
    """A job in each state is read as that state, and may be asked for."""
    job = convert.job_from_wire(wire_job(**STATES[state]), "local")
    assert job.state is state
    assert job.argv == ("cat", "\udcff")
    assert job.name is None
    names = job_pb2.JobState.Name(convert.state_to_wire(state))
    assert names == f"JOB_STATE_{state.name}"


def test_an_end_carries_status_and_usage() -> None:
    """Exit code 0 is a value, not an absence."""
    job = convert.job_from_wire(wire_job(**STATES[JobState.ENDED]), "local")
    assert (job.exit_code, job.signal, job.cause) == (0, None, Cause.SELF)
    assert (job.cpu_s, job.peak_memory_bytes) == (1.5, 9)
    assert job.ended_at == datetime(2025, 2, 19, 21, 20, 0, 123_456, UTC)


def test_a_signal_is_named() -> None:
    """With its core."""
    ended = job_pb2.Ended(
        started_at=T0,
        ended_at=T0,
        cause=job_pb2.CAUSE_GUARD,
        signaled=job_pb2.Signaled(signal_number=9, core_dumped=True),
    )
    job = convert.job_from_wire(wire_job(ended=ended), "local")
    assert (job.exit_code, job.signal, job.core_dumped) == (None, "SIGKILL", True)


def test_a_lost_job_has_no_end() -> None:
    """Nobody saw it."""
    job = convert.job_from_wire(wire_job(**STATES[JobState.LOST]), "local")
    assert (job.ended_at, job.exit_code, job.signal) == (None, None, None)
    assert job.surviving_pids == (5,)


@pytest.mark.parametrize("state", [{}, {"ended": job_pb2.Ended(cause=job_pb2.CAUSE_SELF)}])
def test_what_this_version_does_not_know_raises(state: dict[str, Any]) -> None:
    """A newer agent's state is not taken for another one."""
    with pytest.raises(ApiLevelMismatchError, match="update agentctl"):
        convert.job_from_wire(wire_job(**state), "local")


def test_every_enum_value_of_the_wire_is_known() -> None:
    """Unspecified aside; so a new one cannot be forgotten here."""
    for cause in job_pb2.Cause.values():
        if cause != job_pb2.CAUSE_UNSPECIFIED:
            assert convert.cause_from_wire(cause)
    for kind in job_pb2.OutputKind.values():
        if kind != job_pb2.OUTPUT_KIND_UNSPECIFIED:
            job = wire_job(queued=job_pb2.Queued())
            job.output_kind = kind
            assert convert.job_from_wire(job, "local").output_kind in OutputKind
    for reason in job_service_pb2.GapReason.values():
        if reason != job_service_pb2.GAP_REASON_UNSPECIFIED:
            gap = job_service_pb2.LogGap(reason=reason)
            item = convert.log_item_from_wire(job_service_pb2.ReadLogResponse(gap=gap))
            assert isinstance(item, Gap)


def test_an_unspecified_enum_raises() -> None:
    """Zero is what a sender writes that forgot."""
    with pytest.raises(ApiLevelMismatchError):
        convert.cause_from_wire(job_pb2.CAUSE_UNSPECIFIED)
    with pytest.raises(ApiLevelMismatchError):
        convert.log_item_from_wire(job_service_pb2.ReadLogResponse())


def test_log_items_keep_their_offsets() -> None:
    """Chunk, gap and end."""
    wire = job_service_pb2
    chunk = wire.LogChunk(offset=5, data=b"x", times=[wire.LogTime(offset=5, written_at=T0)])
    item = convert.log_item_from_wire(wire.ReadLogResponse(chunk=chunk))
    assert isinstance(item, Chunk)
    assert (item.offset, item.data, item.times[0].offset) == (5, b"x", 5)
    gap = wire.LogGap(from_offset=6, to_offset=9, reason=wire.GAP_REASON_RETENTION)
    assert convert.log_item_from_wire(wire.ReadLogResponse(gap=gap)) == Gap(
        6, 9, GapReason.RETENTION
    )
    fin = wire.LogFin(next_offset=9, job_over=True)
    assert convert.log_item_from_wire(wire.ReadLogResponse(fin=fin)) == Fin(9, job_over=True)


def test_a_time_survives_the_way_there_and_back() -> None:
    """To the microsecond."""
    moment = datetime(2025, 3, 1, 12, 0, 0, 123_456, UTC)
    assert convert.time_from_wire(convert.time_to_wire(moment)) == moment
