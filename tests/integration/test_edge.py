"""The wire of a real agent: real warden, real shims, real server."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from agentapi.v1 import agent_service_pb2 as agent_pb
from agentapi.v1 import job_pb2
from agentapi.v1 import job_service_pb2 as pb
from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub
from agentapi.v1.job_service_pb2_grpc import JobServiceStub
from agentd import __version__
from tests.helpers.agent import Agent
from tests.helpers.jobs import exits, printer, sleeper
from tests.helpers.wait import wait_until


@dataclass
class Wire:
    """Both services of one agent."""

    agent: Agent
    jobs: JobServiceStub
    info: AgentServiceStub

    def submit(self, *argv: str, key: str = "", **fields: object) -> job_pb2.Job:
        """Submit a job with an environment of two variables."""
        environment = {"PATH": os.defpath, "TOKEN": "s3cret"}
        spec = job_pb2.JobSpec(
            argv=[os.fsencode(argument) for argument in argv],
            cwd=os.fsencode(self.agent.home),
            environment=[
                job_pb2.EnvironmentVariable(name=name.encode(), value=value.encode())
                for name, value in environment.items()
            ],
            **fields,  # type: ignore[arg-type]  # fields of the message, by name
        )
        return self.jobs.SubmitJob(pb.SubmitJobRequest(idempotency_key=key, spec=spec)).job

    def watch(self, *job_ids: int, after_seq: int | None = None) -> list[pb.WatchJobsResponse]:
        """Watch the jobs to their ends."""
        request = pb.WatchJobsRequest(job_ids=job_ids, after_seq=after_seq, follow=True)
        return list(self.jobs.WatchJobs(request, timeout=30))

    def read(self, job_id: int, **fields: object) -> list[pb.ReadLogResponse]:
        """Read a log to its fin."""
        request = pb.ReadLogRequest(job_id=job_id, **fields)  # type: ignore[arg-type]  # same
        return list(self.jobs.ReadLog(request, timeout=30))


@pytest.fixture(name="wire")
def _wire(agent: Agent) -> Iterator[Wire]:
    """Yield a connection to a started agent; the agent's fixture proves its end."""
    agent.start()
    with grpc.insecure_channel(f"unix:{agent.runtime_dir}/agent.sock") as channel:
        yield Wire(agent, JobServiceStub(channel), AgentServiceStub(channel))


def reason(error: grpc.RpcError) -> str:
    """Return the agent-reason trailer."""
    trailer = error.trailing_metadata()
    return next(str(item.value) for item in trailer if item.key == "agent-reason")


def data_of(items: list[pb.ReadLogResponse]) -> bytes:
    """Return the bytes of all chunks."""
    return b"".join(item.chunk.data for item in items)


def test_a_job_is_seen_from_submit_to_its_end(wire: Wire) -> None:
    """Every event once, in order, and an explicit end."""
    job = wire.submit(*exits(7))
    *events, fin = wire.watch(job.id, after_seq=0)
    kinds = [item.event.kind for item in events]
    assert kinds[0] == "job.submitted"
    assert kinds[-1] == "job.ended"
    seqs = [item.event.seq for item in events]
    assert seqs == sorted(set(seqs))
    assert fin.fin.last_seq == seqs[-1]
    assert events[-1].event.job.ended.exit_code == 7
    snapshot, again = wire.watch(job.id)
    assert (snapshot.snapshot.id, again.WhichOneof("item")) == (job.id, "fin")


def test_a_followed_log_is_what_the_job_wrote(wire: Wire) -> None:
    """Over rotations, while it is written, byte for byte, and from any offset later."""
    what = printer(3_000_000, pause_s=0.001)
    job = wire.submit(*what.argv, log_retention_bytes=64 << 20)
    items = wire.read(job.id, follow=True)
    assert hashlib.sha256(data_of(items)).hexdigest() == what.sha256
    assert max(len(item.chunk.data) for item in items) <= 256 << 10
    assert items[-1].fin == pb.LogFin(next_offset=what.size_bytes, job_over=True)
    later = wire.read(job.id, offset=2_999_000)
    assert data_of(later) == data_of(items)[2_999_000:]


def test_a_log_over_its_retention_has_head_gap_and_tail(wire: Wire) -> None:
    """Nothing is skipped in silence; what is told adds up to what was written."""
    what = printer(2_000_000)
    job = wire.submit(*what.argv, log_retention_bytes=1 << 20)
    wire.watch(job.id)
    items = wire.read(job.id)
    gaps = [item.gap for item in items if item.HasField("gap")]
    assert [gap.reason for gap in gaps] == [pb.GAP_REASON_RETENTION]
    gone = sum(gap.to_offset - gap.from_offset for gap in gaps)
    assert len(data_of(items)) + gone == what.size_bytes
    assert items[0].chunk.offset == 0
    assert wire.jobs.GetJob(pb.GetJobRequest(job_id=job.id)).job.log_bytes == what.size_bytes


def test_output_in_the_users_file_is_read_there(wire: Wire) -> None:
    """From where the job began, live, and stderr apart only if it is."""
    out = Path(wire.agent.home) / "out.log"
    out.write_bytes(b"before\n")
    files = job_pb2.FileOutput(stdout_path=os.fsencode(out), append=True)
    job = wire.submit("/bin/sh", "-c", "echo one; sleep 0.1; echo two >&2", files=files)
    assert data_of(wire.read(job.id, follow=True)) == b"one\ntwo\n"
    with pytest.raises(grpc.RpcError) as caught:
        wire.read(job.id, stream=pb.LOG_STREAM_ERR)
    assert reason(caught.value) == "wrong-state"
    out.unlink()
    with pytest.raises(grpc.RpcError, match="no output file"):
        wire.read(job.id)


def test_a_line_reaches_a_follower_at_once(wire: Wire) -> None:
    """Far below the time any polling would need."""
    code = "for i in range(41):\n os.write(1, b'%d\\n' % time.time_ns()); time.sleep(0.01)"
    job = wire.submit("/usr/bin/env", "python3", "-c", f"import os, time\n{code}")
    delays_ns = []
    for item in wire.jobs.ReadLog(pb.ReadLogRequest(job_id=job.id, follow=True), timeout=30):
        now_ns = time.time_ns()
        if item.chunk.data:
            delays_ns.append(now_ns - int(item.chunk.data.split()[-1]))
    assert sorted(delays_ns)[len(delays_ns) // 2] < 50_000_000


def test_secrets_of_a_job_are_in_no_answer_and_no_log(wire: Wire) -> None:
    """Its environment stays in its own file."""
    job = wire.submit("/bin/true")
    answers = [
        *wire.watch(job.id, after_seq=0),
        wire.jobs.GetJob(pb.GetJobRequest(job_id=job.id)),
        wire.jobs.ListJobs(pb.ListJobsRequest()),
    ]
    assert not any(b"s3cret" in answer.SerializeToString() for answer in answers)
    assert "s3cret" not in wire.agent.log()


def test_a_killed_server_is_back_and_the_cursor_still_holds(wire: Wire) -> None:
    """A watch that was cut goes on after its last event."""
    job = wire.submit(*sleeper())
    wait_until(
        lambda: wire.jobs.GetJob(pb.GetJobRequest(job_id=job.id)).job.HasField("running"),
        what="the job runs",
    )
    seq = wire.jobs.GetJob(pb.GetJobRequest(job_id=job.id)).job.event_seq
    os.kill(wire.agent.server_pid(), signal.SIGKILL)
    wait_until(lambda: answers(wire), deadline_s=20, what="a server that answers")
    wire.jobs.StopJob(pb.StopJobRequest(job_id=job.id))
    items = wire.watch(job.id, after_seq=seq)
    assert items[-2].event.job.ended.cause == job_pb2.CAUSE_USER
    assert all(item.event.seq > seq for item in items[:-1])


def answers(wire: Wire) -> bool:
    """Say whether the agent answers."""
    try:
        wire.info.GetAgentInfo(agent_pb.GetAgentInfoRequest(), timeout=5)
    except grpc.RpcError:
        return False
    return True


def test_an_agent_that_stops_tells_followers_why(wire: Wire) -> None:
    """Unavailable and draining: ask again, the job goes on."""
    job = wire.submit(*sleeper())
    following = wire.jobs.ReadLog(pb.ReadLogRequest(job_id=job.id, follow=True), timeout=30)
    watching = wire.jobs.WatchJobs(pb.WatchJobsRequest(job_ids=[job.id], follow=True), timeout=30)
    assert next(watching).snapshot.id == job.id
    wire.info.StopAgent(agent_pb.StopAgentRequest())
    for stream in (following, watching):
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(caught.value) == "draining"
    wait_until(lambda: not wire.agent.warden_pid(), what="the agent's end")
    assert not os.path.exists(f"{wire.agent.runtime_dir}/agent.sock")


def test_a_bad_config_is_shown_until_it_is_repaired(wire: Wire) -> None:
    """`agent status` says so, without a restart."""

    def complaint() -> str:
        return wire.info.GetAgentInfo(agent_pb.GetAgentInfoRequest()).config_error

    config = Path(wire.agent.config_file)
    assert not complaint()
    config.write_text("[logs]\nsegment = 'small'\n", encoding="utf-8")
    assert "logs.segment (line 2)" in wait_until(complaint, what="the complaint")
    config.write_text("[logs]\nsegment = '1M'\n", encoding="utf-8")
    wait_until(lambda: not complaint(), what="no complaint")


def test_the_agent_says_what_it_is(wire: Wire) -> None:
    """Versions, places, counts."""
    wire.watch(wire.submit("/bin/true").id)
    wire.submit(*sleeper())
    info = wire.info.GetAgentInfo(agent_pb.GetAgentInfoRequest())
    assert (info.version, info.api_level) == (__version__, 1)
    assert (info.warden_pid, info.server_pid) == (wire.agent.warden_pid(), wire.agent.server_pid())
    assert (info.active_jobs, info.total_jobs) == (1, 2)
    assert info.state_dir == wire.agent.state_dir


def test_the_socket_comes_back_after_a_cleaner(wire: Wire) -> None:
    """The whole runtime directory is taken away, and the next client finds the agent."""
    path = f"{wire.agent.runtime_dir}/agent.sock"
    os.unlink(path)
    wait_until(lambda: os.path.exists(path), what="the socket")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        AgentServiceStub(channel).GetAgentInfo(agent_pb.GetAgentInfoRequest(), timeout=10)
