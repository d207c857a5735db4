"""Through a network that fails: streams go on at the exact byte or event, ends are only ends."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl import LogQuery
from agentctl.api.trouble import LinkBack, LinkLost, Notice
from agentctl.errors import TryAgainError, WaitTimeoutError
from agentctl.model import Chunk
from tests.helpers import jobs
from tests.helpers.agent import Agent
from tests.helpers.relay import Relay, client_through, relayed
from tests.helpers.wait import dawdle, holds_for, wait_until


@pytest.fixture(name="relay")
def _relay(agent: Agent) -> Iterator[Relay]:
    """Yield a relay to a running agent."""
    agent.start()
    with relayed(agent) as relay:
        yield relay


def _until(agent: Agent, first: str, last: str) -> list[str]:
    """Return a job that does the one, and the other once the file "go" is there."""
    return ["sh", "-c", f"{first}; while ! [ -e {agent.home}/go ]; do sleep 0.05; done; {last}"]


def test_a_followed_log_is_exact_over_many_cuts(agent: Agent, relay: Relay) -> None:
    """Byte for byte, wherever the connections are cut."""
    printer = jobs.printer(6_000_000, seed=3, pause_s=0.02)
    chance = random.Random(7)
    digest = hashlib.sha256()
    with client_through(agent, relay) as (client, link):
        job = client.submit(printer.argv)
        done = threading.Event()

        def cut() -> None:
            while not done.is_set():
                dawdle(chance.uniform(0.05, 0.4))
                relay.kill()
                relay.start()

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            for data in client.logs(job.id, follow=True):
                digest.update(data)
        finally:
            done.set()
            cutter.join()
        assert client.get(job.id).exit_code == 0
    assert digest.hexdigest() == printer.sha256
    assert link.breaks > 2


def test_a_frozen_link_is_left_and_the_log_goes_on(agent: Agent, relay: Relay) -> None:
    """Within ten seconds, though nothing was closed and every connect is accepted."""
    with client_through(agent, relay) as (client, link):
        job = client.submit(_until(agent, "echo a", "echo b"))
        reading = client.logs(job.id, follow=True)
        assert next(reading) == b"a\n"
        relay.freeze()
        Path(f"{agent.home}/go").touch()
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.extend(reading))
        reader.start()
        wait_until(lambda: link.breaks, deadline_s=10, what="the frozen link noticed")
        relay.kill()
        relay.start()
        reader.join(10)
        assert rest == [b"b\n"]


def test_an_outage_is_told_once_and_so_is_its_end(agent: Agent, relay: Relay) -> None:
    """After two seconds, with the reason, and not for every attempt or every stream."""
    notices: list[Notice] = []
    with client_through(agent, relay, on_notice=notices.append) as (client, _):
        job = client.submit(jobs.sleeper())
        readings = [
            threading.Thread(target=lambda: list(client.logs(job.id, follow=True))),
            threading.Thread(target=lambda: client.wait(job.id)),
        ]
        for reading in readings:
            reading.start()
        relay.kill()
        relay.start()
        holds_for(lambda: not notices, seconds=3, what="a short cut is not worth a word")
        relay.kill()
        wait_until(lambda: notices, deadline_s=4, what="the outage told")
        holds_for(lambda: len(notices) == 1, seconds=1, what="one notice")
        relay.start()
        wait_until(lambda: len(notices) == 2, what="the end of it told")
        lost, back = notices
        assert isinstance(lost, LinkLost)
        assert (lost.host, bool(lost.why)) == ("far", True)
        assert isinstance(back, LinkBack)
        assert back.away_s > 2
        client.kill(job.id)
        for reading in readings:
            reading.join(10)
            assert not reading.is_alive()


def test_streams_wait_longer_than_calls(agent: Agent, relay: Relay) -> None:
    """A call gives up when its patience ends; a wait that has stood does not."""
    with client_through(agent, relay, patience_s=0.5) as (client, _):
        job = client.submit(_until(agent, ":", "exit 7"))
        ended: list[int | None] = []
        waiting = threading.Thread(target=lambda: ended.append(client.wait(job.id).exit_code))
        waiting.start()
        relay.kill()
        with pytest.raises(TryAgainError):
            client.get(job.id)
        Path(f"{agent.home}/go").touch()
        holds_for(lambda: waiting.is_alive() and not ended, seconds=2, what="it waits")
        relay.start()
        waiting.join(10)
        assert ended == [7]


def test_a_stream_to_a_host_never_heard_of_gives_up(agent: Agent, relay: Relay) -> None:
    """Somebody mistook the host, perhaps: nothing is waited for without end."""
    relay.kill()
    with (
        client_through(agent, relay, patience_s=0.5) as (client, _),
        pytest.raises(TryAgainError, match="nobody is there"),
    ):
        client.wait(1)
    relay.start()


def test_a_wait_that_ends_in_an_outage_does_not_say_that_the_job_runs(
    agent: Agent, relay: Relay
) -> None:
    """Nobody could know."""
    with client_through(agent, relay) as (client, _):
        job = client.submit(jobs.sleeper())
        client.get(job.id)
        relay.kill()
        with pytest.raises(WaitTimeoutError, match="far is out of reach"):
            client.wait(job.id, 1.0)
        relay.start()
        with pytest.raises(WaitTimeoutError, match="is not over after"):
            client.wait(job.id, 0.2)


def test_no_event_is_missed_or_doubled_over_cuts(agent: Agent, relay: Relay) -> None:
    """While jobs come and go on the other side."""
    with client_through(agent, relay) as (client, _):
        first = client.submit(["true"])
        client.wait(first.id)
        begin = client.last_event_seq()
        seen: list[int] = []
        last_id = first.id + 8

        def follow() -> None:
            for event in client.events(follow=True, after_seq=begin):
                seen.append(event.seq)
                if event.job.id == last_id and event.job.is_over:
                    return

        following = threading.Thread(target=follow)
        following.start()
        for _ in range(8):
            agent.cli("run", "--", "true", check=True)
            relay.kill()
            relay.start()
        following.join(15)
        assert not following.is_alive()
        assert seen == [event.seq for event in client.events(after_seq=begin)]


def test_a_submit_that_was_cut_starts_one_job(agent: Agent, relay: Relay) -> None:
    """However often it was asked."""
    with client_through(agent, relay) as (client, _):
        client.list()
        relay.freeze()
        ids: list[int] = []
        submitting = threading.Thread(target=lambda: ids.append(client.submit(["true"]).id))
        submitting.start()
        holds_for(lambda: not ids, seconds=0.5, what="no answer comes through")
        # What stood in it is delivered, the answer is lost.
        relay.thaw()
        relay.kill()
        relay.start()
        submitting.join(20)
        assert ids == [1]
        assert [job.id for job in client.list()] == [1]


def test_a_submit_without_an_answer_says_that_it_may_have_been_taken(
    agent: Agent, relay: Relay
) -> None:
    """Submitted by hand again it would run twice."""
    with client_through(agent, relay, patience_s=0.5) as (client, _):
        client.list()
        relay.freeze()
        cutting = threading.Timer(0.5, relay.kill)
        cutting.start()
        with pytest.raises(TryAgainError, match=r"may have been started.* agentctl -H far ls"):
            client.submit(["true"])
        cutting.join()
        with pytest.raises(TryAgainError) as caught:
            client.list()
        assert "may have been" not in str(caught.value)
        relay.start()


def test_an_agent_that_is_killed_behind_the_link_is_an_outage_like_any(
    agent: Agent, relay: Relay
) -> None:
    """The relay stands; the log goes on with the next agent."""
    printer = jobs.printer(300_000, seed=1, pause_s=0.01)
    digest = hashlib.sha256()
    with client_through(agent, relay) as (client, _):
        job = client.submit(printer.argv)
        for number, item in enumerate(client.log_items(LogQuery(job.id, follow=True))):
            if isinstance(item, Chunk):
                digest.update(item.data)
            if number == 1:
                agent.kill(agent.warden_pid(), agent.server_pid())
                agent.start()
    assert digest.hexdigest() == printer.sha256


def test_a_slow_network_is_not_a_broken_one(agent: Agent) -> None:
    """A log faster than the line fills every buffer, and the answer to a ping waits behind it."""
    agent.start()
    printer = jobs.printer(6_000_000, seed=2)
    agent.cli("run", "--", *printer.argv)
    with (
        relayed(agent, rate_bytes_s=500_000) as relay,
        client_through(agent, relay) as (client, link),
    ):
        digest = hashlib.sha256(b"".join(client.logs(1)))
        assert link.breaks == 0
    assert digest.hexdigest() == printer.sha256
