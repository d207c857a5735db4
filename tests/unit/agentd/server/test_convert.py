"""Between wire and model."""

from __future__ import annotations

import dataclasses
import os
from typing import get_args

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from agentapi.v1 import guard_service_pb2, job_pb2
from agentapi.v1 import job_service_pb2 as pb
from agentd.core import job as core
from agentd.core.contract import GuardJob, NoticeKind
from agentd.core.guard.model import Marks, MemAction
from agentd.core.job import Cause
from agentd.errors import InvalidSpecError
from agentd.server.edge import convert
from agentd.server.edge.guardservice import NOTICE_KINDS, guarded_job, host
from agentd.server.runtime.logfollow import (
    Fin,
    FromOffset,
    FromTail,
    FromTime,
    LogRequest,
    TimedChunk,
)
from agentd.server.runtime.logs import Chunk, Gap, GapReason
from agentd.server.runtime.model import Event, JobDraft, JobInfo, JobQuery, JobSummary, Remarks
from tests.unit.agentd.server.test_requeue import WELL

HANDLE = core.LeaderHandle(5_000_000_007, core.ProcessId(42, 99), 43)
STATES: tuple[core.State, ...] = (
    core.Queued(),
    core.Starting(),
    core.Running(HANDLE),
    core.Paused(dataclasses.replace(HANDLE, shim_pid=None)),
    core.Stopping(None, Cause.USER),
    core.Ended(1, 2, 1, core.ExitStatus(7 << 8), Cause.SELF, core.ResourceUsage(0.5, 0.25, 99)),
    core.StartFailed(3, Cause.SELF, "cannot run it", 2, "/no\udcff"),
    core.Lost(4, Cause.REBOOT, "reboot", None, (7, 8)),
)


def info(state: core.State, output: core.Output | None = None) -> JobInfo:
    """Return a job in this state."""
    summary = JobSummary(
        7, "näme", ("a\udcff", ""), "/d\udcfe", {"k": "v"}, 1_500_000_000, 1 << 40,
        output or core.MergedOutput(),
    )  # fmt: skip
    return JobInfo(summary, state, 11)


def test_every_state_has_a_message_of_its_own() -> None:
    """And every message of the wire has its state: none is left out, none is shared."""
    fields = [convert.job(info(state), 0).WhichOneof("state") for state in STATES]
    oneof = job_pb2.Job.DESCRIPTOR.oneofs_by_name["state"]
    assert fields == [field.name for field in oneof.fields]
    assert {type(state) for state in STATES} == set(get_args(core.State))


@pytest.mark.parametrize(
    ("table", "enum", "values"),
    [
        (convert.CAUSES, job_pb2.Cause, set(Cause)),
        (convert.MEM_ACTIONS, job_pb2.MemAction, set(MemAction)),
        (NOTICE_KINDS, guard_service_pb2.GuardNoticeKind, set(NoticeKind)),
        (convert.OUTPUT_KINDS, job_pb2.OutputKind, set(get_args(core.Output))),
        (convert.GAP_REASONS, pb.GapReason, set(GapReason)),
        ({v: k for k, v in convert.STATES.items()}, job_pb2.JobState, set(get_args(core.State))),
    ],
)
def test_every_value_has_exactly_one_on_the_wire(table: dict, enum: object, values: set) -> None:
    """All of ours, all of theirs but the unspecified one."""
    assert set(table) == values
    assert sorted(table.values()) == sorted(set(enum.values()) - {0})  # type: ignore[attr-defined]  # protobuf's enum wrapper


def test_a_job_keeps_the_bytes_of_the_operating_system() -> None:
    """What is no UTF-8 comes through unchanged."""
    message = convert.job(info(STATES[2]), 12)
    assert (list(message.argv), message.cwd) == ([b"a\xff", b""], b"/d\xfe")
    assert (message.id, message.name, message.labels["k"]) == (7, "näme", "v")
    assert message.submitted_at == Timestamp(seconds=1, nanos=500_000_000)
    assert (message.mem_limit_bytes, message.log_bytes, message.event_seq) == (1 << 40, 12, 11)
    assert (message.running.leader_pid, message.running.shim_pid) == (42, 43)
    assert message.running.started_at == Timestamp(seconds=5, nanos=7)


def test_a_requeue_and_what_the_guard_may_do_are_told() -> None:
    """The action only with a limit; the ids only where there are any."""
    plain = convert.job(info(STATES[0]), 0)
    assert plain.mem_action == job_pb2.MEM_ACTION_KILL
    assert not plain.HasField("requeue_of")
    assert not plain.HasField("requeued_as")
    spec = dataclasses.replace(
        info(STATES[0]).spec,
        mem_limit_bytes=None,
        preemptible=True,
        requeue_limit=3,
        requeue_count=1,
        requeue_of=5,
        requeued_as=9,
    )
    message = convert.job(JobInfo(spec, core.Queued(), 0), 0)
    assert message.mem_action == job_pb2.MEM_ACTION_UNSPECIFIED
    assert (message.preemptible, message.requeue_limit, message.requeue_count) == (True, 3, 1)
    assert (message.requeue_of, message.requeued_as) == (5, 9)


def test_what_the_guard_does_to_a_job_has_a_reason() -> None:
    """Of a paused job and of one that is being ended."""
    why = Remarks(guard_reason="33 of 32 GiB")
    assert convert.job(info(STATES[3]), 0, why).paused.reason == "33 of 32 GiB"
    assert convert.job(info(STATES[4]), 0, why).stopping.reason == "33 of 32 GiB"
    assert convert.job(info(STATES[2]), 0, why).WhichOneof("state") == "running"


def test_a_requeue_that_waits_or_never_comes_is_told() -> None:
    """A time or a reason; neither for all others."""
    waits = convert.job(info(STATES[5]), 0, Remarks(requeue_at_ns=7_500_000_000))
    assert (waits.requeue_at.seconds, waits.requeue_at.nanos) == (7, 500_000_000)
    never = convert.job(info(STATES[5]), 0, Remarks(requeue_cancelled="no"))
    assert (never.HasField("requeue_at"), never.requeue_cancelled) == (False, "no")


def test_a_submit_says_what_the_guard_may_do() -> None:
    """Unset is nothing said; an action of a later version is refused by name."""
    spec = job_pb2.JobSpec(argv=[b"true"])
    assert convert.draft(pb.SubmitJobRequest(spec=spec)).mem_action is None
    spec.mem_action, spec.preemptible, spec.requeue_limit = job_pb2.MEM_ACTION_WARN, True, 7
    draft = convert.draft(pb.SubmitJobRequest(spec=spec))
    assert (draft.mem_action, draft.preemptible) == (MemAction.WARN, True)
    assert draft.requeue_limit == 7
    spec.mem_action = 99  # type: ignore[assignment]  # of a later version
    with pytest.raises(InvalidSpecError, match="mem_action: 99"):
        convert.draft(pb.SubmitJobRequest(spec=spec))


def test_what_the_guard_did_not_measure_is_unset() -> None:
    """No limit, no charge, no end in sight: not zeros."""
    job = guarded_job(GuardJob(7, 5, None, None, -3, "why"), info(STATES[2]))
    assert (job.HasField("held_bytes"), job.HasField("limit_bytes")) == (False, False)
    assert (job.growing_bytes_per_s, job.name) == (-3, "näme")
    assert (job.state, job.mem_action) == (job_pb2.JOB_STATE_RUNNING, job_pb2.MEM_ACTION_KILL)
    assert guarded_job(GuardJob(7, 5, None, None, -3, "why"), None).name == ""
    assert not host(WELL, None).HasField("exhausted_after_s")
    assert host(dataclasses.replace(WELL, exhausted_after_s=1.5), None).exhausted_after_s == 1.5
    endless = dataclasses.replace(WELL, exhausted_after_s=float("inf"))
    assert not host(endless, None).HasField("exhausted_after_s")


def test_a_mark_is_told_as_it_is_configured() -> None:
    """Unset where the server does not know."""
    assert not host(WELL, None).HasField("warn")
    kill = host(WELL, Marks()).kill
    assert (kill.percent, kill.cap_bytes) == (2.5, 2 << 30)


def test_what_is_absent_stays_absent() -> None:
    """No limit, no start, no shim: not zeros that look like values."""
    summary = dataclasses.replace(info(STATES[0]).spec, mem_limit_bytes=None)
    assert not convert.job(JobInfo(summary, core.Queued(), 0), 0).HasField("mem_limit_bytes")
    assert not convert.job(info(STATES[7]), 0).lost.HasField("started_at")
    assert not convert.job(info(STATES[4]), 0).stopping.HasField("started_at")
    assert convert.job(info(STATES[3]), 0).paused.shim_pid == 0


@given(st.sampled_from([n << 8 for n in range(256)] + [*range(1, 65), *range(129, 193)]))
def test_an_exit_status_is_a_code_or_a_signal(wait_status: int) -> None:
    """As wait(2) tells them apart."""
    status = core.ExitStatus(wait_status)
    ended = core.Ended(0, 0, 0, status, Cause.SELF, core.ResourceUsage())
    message = convert.job(info(ended), 0).ended
    if status.exit_code is not None:
        assert (message.WhichOneof("status"), message.exit_code) == ("exit_code", status.exit_code)
    else:
        assert message.signaled.signal_number == status.signal_number
        assert message.signaled.core_dumped is status.core_dumped


@given(st.text(st.characters(), max_size=20))
def test_text_for_people_is_always_utf_8(text: str) -> None:
    """A path's odd bytes in a reason must not make the answer fail."""
    state = core.StartFailed(3, Cause.SELF, text + "\udcff", 2, "")
    assert "\\udcff" in convert.job(info(state), 0).start_failed.reason


def test_the_environment_is_never_answered() -> None:
    """No message of an answer has a field for it."""
    names = {field.name for field in job_pb2.Job.DESCRIPTOR.fields}
    assert "environment" not in names
    assert not {field.name for field in dataclasses.fields(JobSummary)} & {"environment"}


def test_a_draft_holds_all_that_was_asked() -> None:
    """Field by field, bytes as text of the operating system."""
    spec = job_pb2.JobSpec(
        argv=[b"x", b"\xff"], cwd=b"/c", name="n", labels={"a": "b"},
        environment=[job_pb2.EnvironmentVariable(name=b"K", value=b"\xfe")],
        timeout=Duration(seconds=1, nanos=500_000_000), grace=Duration(), stdin_path=b"/in",
        umask=0, mem_limit_bytes=5, log_retention_bytes=0,
        files=job_pb2.FileOutput(stdout_path=b"/o", append=True),
        resource_limits=[
            job_pb2.ResourceLimit(name="core", soft=0), job_pb2.ResourceLimit(name="cpu"),
            job_pb2.ResourceLimit(name="nofile", soft=333, hard=1024),
        ],
    )  # fmt: skip
    assert convert.draft(pb.SubmitJobRequest(idempotency_key="key", spec=spec)) == JobDraft(
        idempotency_key="key", argv=("x", "\udcff"), cwd="/c", environment={"K": "\udcfe"},
        name="n", labels={"a": "b"}, timeout_s=1.5, grace_s=0.0,
        output=core.FileOutput("/o", None, append=True), stdin_path="/in", umask=0,
        mem_limit_bytes=5, log_retention_bytes=0,
        resource_limits={"core": (0, -1), "cpu": (-1, -1), "nofile": (333, 1024)},
    )  # fmt: skip


def test_an_empty_spec_is_all_unset() -> None:
    """Defaults are filled in further inside, not here."""
    draft = convert.draft(pb.SubmitJobRequest(spec=job_pb2.JobSpec()))
    assert draft == JobDraft("", (), "", {})


@pytest.mark.parametrize(
    ("spec", "output"),
    [
        (job_pb2.JobSpec(), core.MergedOutput()),
        (job_pb2.JobSpec(merged=job_pb2.MergedOutput()), core.MergedOutput()),
        (job_pb2.JobSpec(split=job_pb2.SplitOutput()), core.SplitOutput()),
        (
            job_pb2.JobSpec(terminal=job_pb2.TerminalOutput(columns=80, rows=24)),
            core.TerminalOutput(80, 24),
        ),
        (
            job_pb2.JobSpec(files=job_pb2.FileOutput(stdout_path=b"/o", stderr_path=b"/e")),
            core.FileOutput("/o", "/e", append=False),
        ),
    ],
)
def test_every_output_comes_through(spec: job_pb2.JobSpec, output: core.Output) -> None:
    """And its kind goes back."""
    assert convert.draft(pb.SubmitJobRequest(spec=spec)).output == output
    kind = convert.job(info(core.Queued(), output), 0).output_kind
    assert kind == convert.OUTPUT_KINDS[type(output)]


@pytest.mark.parametrize(
    "duration", [Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=1 << 40)]
)
def test_a_duration_that_is_none_is_refused_by_name(duration: Duration) -> None:
    """Negative, or longer than a hundred years."""
    for field, spec in (
        ("timeout", job_pb2.JobSpec(timeout=duration)),
        ("grace", job_pb2.JobSpec(grace=duration)),
    ):
        with pytest.raises(InvalidSpecError, match=f"^{field}: "):
            convert.draft(pb.SubmitJobRequest(spec=spec))
    with pytest.raises(InvalidSpecError, match=r"^grace: "):
        convert.grace_s(pb.StopJobRequest(grace=duration))


def test_an_unset_grace_is_not_a_grace_of_zero() -> None:
    """Zero is SIGKILL at once."""
    assert convert.grace_s(pb.StopJobRequest()) is None
    assert convert.grace_s(pb.StopJobRequest(grace=Duration())) == 0


def test_a_submit_without_spec_is_refused() -> None:
    """By name."""
    with pytest.raises(InvalidSpecError, match=r"^spec"):
        convert.draft(pb.SubmitJobRequest())


@pytest.mark.parametrize("value", [0, 9, 99])
def test_an_unknown_state_is_refused_by_name(value: int) -> None:
    """Never taken for another one."""
    request = pb.ListJobsRequest()
    request.states.append(value)  # type: ignore[arg-type]  # an older agent's view of a newer client
    with pytest.raises(InvalidSpecError, match=r"^states"):
        convert.query(request)


def test_a_query_holds_all_that_was_asked() -> None:
    """Field by field."""
    request = pb.ListJobsRequest(
        states=[job_pb2.JOB_STATE_LOST, job_pb2.JOB_STATE_LOST], name="n", labels={"a": "b"},
        current_only=True, recent_limit=20, page_size=3, before_id=9,
    )  # fmt: skip
    expected = JobQuery(frozenset({core.Lost}), "n", {"a": "b"}, True, 20, 3, 9)
    assert convert.query(request) == expected


def test_a_log_request_has_one_start() -> None:
    """Offset, lines or time; none of them is byte 0."""
    convert_start = [
        convert.log_request(request).start
        for request in (
            pb.ReadLogRequest(),
            pb.ReadLogRequest(offset=5),
            pb.ReadLogRequest(tail_lines=3),
            pb.ReadLogRequest(since=Timestamp(seconds=2, nanos=1)),
            pb.ReadLogRequest(since=Timestamp(seconds=-2)),
        )
    ]
    assert convert_start == [
        FromOffset(0), FromOffset(5), FromTail(3), FromTime(2_000_000_001), FromTime(0)
    ]  # fmt: skip
    request = pb.ReadLogRequest(job_id=4, stream=pb.LOG_STREAM_ERR, follow=True, with_times=True)
    assert convert.log_request(request) == LogRequest(
        4, stderr=True, start=FromOffset(0), follow=True, with_times=True
    )
    with pytest.raises(InvalidSpecError, match=r"^stream"):
        convert.log_request(pb.ReadLogRequest(stream=9))  # type: ignore[arg-type]  # from a newer client


def test_every_item_of_a_log_comes_through() -> None:
    """Chunk, gap and fin."""
    chunk = convert.log_item(TimedChunk(Chunk(3, b"x\xff"), ((3, 1_000_000_001),))).chunk
    assert (chunk.offset, chunk.data, chunk.times[0].offset) == (3, b"x\xff", 3)
    assert chunk.times[0].written_at == Timestamp(seconds=1, nanos=1)
    gap = convert.log_item(Gap(1, 2, GapReason.DISK_FULL)).gap
    assert (gap.from_offset, gap.to_offset, gap.reason) == (1, 2, pb.GAP_REASON_DISK_FULL)
    fin = convert.log_item(Fin(9, job_over=True)).fin
    assert (fin.next_offset, fin.job_over) == (9, True)


def test_an_event_carries_the_job_as_it_then_was() -> None:
    """With sequence number and time."""
    message = convert.event(Event(5, 1_000_000_000, "job.lost", info(STATES[7]), "why"), 3)
    assert (message.seq, message.kind, message.detail) == (5, "job.lost", "why")
    assert message.occurred_at == Timestamp(seconds=1)
    assert (message.job.WhichOneof("state"), message.job.log_bytes) == ("lost", 3)


@given(st.binary(max_size=20))
def test_bytes_come_back_as_they_went_in(data: bytes) -> None:
    """The edge's rule for text of the operating system loses nothing."""
    assert os.fsencode(os.fsdecode(data)) == data
