"""The SDK against a real agent."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from agentctl import (
    AmbiguousNameError,
    Client,
    JobNotFoundError,
    JobState,
    WaitTimeoutError,
    WrongStateError,
)
from agentctl.api.logs import LogQuery
from agentctl.model import Chunk, Fin
from tests.helpers import jobs
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until


@pytest.fixture(name="client")
def _client(agent: Agent) -> Iterator[Client]:
    """Yield a client of a private agent."""
    with agent.client() as client:
        yield client


def test_submit_wait_logs(client: Client) -> None:
    """The three things everybody does."""
    job = client.submit(["sh", "-c", "echo hi; exit 7"], name="x", mem="64M", env={"A": "1"})
    over = client.wait(job.id)
    assert (over.exit_code, over.exit_status, over.mem_limit_bytes) == (7, 7, 64 << 20)
    assert b"".join(client.logs(job.id)) == b"hi\n"
    assert client.get(job.id) == over
    assert client.find("x") == over


def test_errors_are_exceptions_of_one_tree(client: Client) -> None:
    """By kind, with a reason."""
    with pytest.raises(JobNotFoundError) as caught:
        client.get(99)
    assert (caught.value.reason, caught.value.exit_code) == ("job-not-found", 1)
    job = client.submit(["true"])
    client.wait(job.id)
    with pytest.raises(WrongStateError):
        client.stop(job.id)
    client.submit(["sleep", "600"], name="twin")
    client.submit(["sleep", "600"], name="twin")
    with pytest.raises(AmbiguousNameError) as ambiguous:
        client.find("twin")
    assert [job.id for job in ambiguous.value.candidates] == [3, 2]


def test_wait_has_a_timeout(client: Client) -> None:
    """It is also a TimeoutError."""
    job = client.submit(["sleep", "600"])
    began_s = time.monotonic()
    with pytest.raises(WaitTimeoutError):
        client.wait(job.id, timeout_s=0.2)
    with pytest.raises(TimeoutError):
        client.wait(job.id, timeout_s=0)
    assert time.monotonic() - began_s < 3


def test_control(client: Client) -> None:
    """Pause, resume, signal, stop, kill, remove."""
    job = client.submit(["sleep", "600"])
    wait_until(lambda: client.get(job.id).state is JobState.RUNNING, what="the job runs")
    assert client.pause(job.id).state is JobState.PAUSED
    assert client.resume(job.id).state is JobState.RUNNING
    client.signal(job.id, signal.SIGUSR1)
    assert client.wait(job.id).signal == "SIGUSR1"
    client.remove(job.id)
    with pytest.raises(JobNotFoundError):
        client.get(job.id)
    second = client.submit(["sleep", "600"])
    client.kill(second.id)
    assert client.wait(second.id).signal == "SIGKILL"


def test_list_pages_are_joined(client: Client) -> None:
    """Newest first, all of them."""
    ids = [client.submit(["true"], labels={"n": str(n % 2)}).id for n in range(5)]
    for job_id in ids:
        client.wait(job_id)
    assert [job.id for job in client.list()] == ids[::-1]
    assert [job.id for job in client.list(recent=2)] == ids[:-3:-1]
    assert [job.id for job in client.list(labels={"n": "1"}, states=["ended"])] == [ids[3], ids[1]]


def test_log_items_carry_offsets_and_an_explicit_end(client: Client) -> None:
    """From any byte on."""
    job = client.submit(["printf", "0123456789"])
    client.wait(job.id)
    items = list(client.log_items(LogQuery(job.id, offset=4)))
    chunks, fin = items[:-1], items[-1]
    assert b"".join(item.data for item in chunks if isinstance(item, Chunk)) == b"456789"
    assert isinstance(chunks[0], Chunk)
    assert chunks[0].offset == 4
    assert fin == Fin(10, job_over=True)


def test_following_a_log_gives_bytes_before_the_job_is_over(client: Client) -> None:
    """As they are written."""
    job = client.submit(["sh", "-c", "echo now; sleep 600"])
    reading = client.logs(job.id, follow=True)
    assert next(reading) == b"now\n"
    assert client.get(job.id).state is JobState.RUNNING


def test_events_resume_after_a_cursor(client: Client) -> None:
    """No event twice, none missed."""
    job = client.submit(["true"])
    client.wait(job.id)
    events = list(client.events())
    assert events[-1].kind == "job.ended"
    assert client.last_event_seq() == events[-1].seq
    assert list(client.events(after_seq=events[1].seq)) == events[2:]
    assert not list(client.events(after_seq=events[-1].seq))
    follow = client.events(follow=True, after_seq=events[-1].seq)
    second = client.submit(["true"])
    assert next(follow).job.id == second.id


def test_one_client_serves_many_threads(client: Client) -> None:
    """Each job once, each status its own."""
    statuses: dict[int, int | None] = {}

    def work(code: int) -> None:
        statuses[code] = client.wait(client.submit(jobs.exits(code)).id).exit_code

    threads = [threading.Thread(target=work, args=(code,)) for code in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == {code: code for code in range(16)}
    assert len(client.list()) == 16


def test_agent_info(client: Client, agent: Agent) -> None:
    """Who answers."""
    info = client.agent_info()
    assert (info.warden_pid, info.server_pid) == (agent.warden_pid(), agent.server_pid())
    assert info.state_dir == agent.state_dir


def test_a_client_heals_when_the_server_is_killed(client: Client, agent: Agent) -> None:
    """Calls, waits and logs go on; nothing is started twice."""
    path = f"{agent.home}/ran"
    job = client.submit(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.3; done"])
    lines: list[bytes] = []
    reader = threading.Thread(
        target=lambda: lines.extend(client.logs(job.id, follow=True)), daemon=True
    )
    reader.start()
    wait_until(lambda: lines, what="the first line")
    agent.kill(agent.server_pid())
    again = client.submit(jobs.counter(path))
    assert client.wait(again.id).exit_code == 0
    assert client.wait(job.id).exit_code == 0
    reader.join(30)
    assert b"".join(lines) == b"1\n2\n3\n4\n5\n6\n7\n8\n"
    assert jobs.read_pids(path) == [again.id]


def test_a_client_starts_the_agent_again(client: Client, agent: Agent) -> None:
    """Warden and server gone at once."""
    job = client.submit(["sh", "-c", "sleep 1; exit 4"])
    wait_until(lambda: client.get(job.id).state is JobState.RUNNING, what="the job runs")
    agent.kill(agent.warden_pid(), agent.server_pid())
    assert client.wait(job.id).exit_code == 4


def test_an_idle_client_finds_a_new_agent_at_once(client: Client, agent: Agent) -> None:
    """No back-off is waited for."""
    for _ in range(2):
        client.list()
        agent.cli("agent", "stop", check=True)
        agent.start()
        began_s = time.monotonic()
        client.list()
        assert time.monotonic() - began_s < 2


def test_a_socket_that_was_cleaned_away_comes_back(client: Client, agent: Agent) -> None:
    """A /tmp cleaner is no reason for a second agent."""
    client.list()
    warden = agent.warden_pid()
    os.unlink(f"{agent.runtime_dir}/agent.sock")
    with agent.client() as fresh:
        assert fresh.list() == []
    assert agent.warden_pid() == warden


def test_iterating_stops_early_without_a_trace(client: Client) -> None:
    """A reader may leave whenever it likes."""
    job = client.submit(["sh", "-c", "while :; do echo x; done"])
    assert len(list(itertools.islice(client.logs(job.id, follow=True), 3))) == 3
    client.kill(job.id)
    assert client.wait(job.id).is_over
