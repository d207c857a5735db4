"""What the SDK is given wrongly is said in its own tree of exceptions, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentctl import Client, InvalidSpecError, JobNotFoundError, LogQuery
from agentctl.errors import ClientClosedError
from agentctl.moments import read_moment

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(name="client")
def _client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client that leads to nobody's agent and would start none."""
    monkeypatch.setenv("AGENTD_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("AGENTD_RUNTIME_DIR", "/tmp/agentctl-unit-test-nothing-here")
    return Client(start_agent=False)


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda c: c.submit(["true"], name=5), "name"),
        (lambda c: c.submit(["true"], name="\udcff"), "name"),
        (lambda c: c.submit(5), "argv"),
        (lambda c: c.submit(["true"], labels={"a": 1}), "label"),
        (lambda c: c.submit(["true"], labels=["a"]), "label"),
        (lambda c: c.submit(["true"], labels={"a": "\udcff"}), "label"),
        (lambda c: c.submit(["true"], env=["A"]), "env"),
        (lambda c: c.submit(["true"], env={"A": 1}), "env"),
        (lambda c: c.submit(["true"], timeout=[]), "timeout"),
        (lambda c: c.submit(["true"], mem=[]), "mem"),
        (lambda c: c.list(name=5), "name"),
        (lambda c: c.list(labels=["a"]), "label"),
        (lambda c: c.list(labels={"a": 1}), "label"),
        (lambda c: c.list(recent=-1), "recent"),
        (lambda c: c.list(recent=1 << 32), "recent"),
        (lambda c: c.list(recent="x"), "recent"),
        (lambda c: c.list(states=5), "state"),
        (lambda c: c.logs(7, since="yesterday"), "since"),
        (lambda c: c.logs(7, since=[]), "since"),
        (lambda c: c.logs(7, since=-1), "since"),
        (lambda c: c.logs(7, since=datetime(2025, 1, 1)), "since"),  # noqa: DTZ001  # the fault under test
        (lambda c: c.logs(7, tail_lines="x"), "tail_lines"),
        (lambda c: c.logs(7, offset=1.5), "offset"),
        (lambda c: c.log_items(LogQuery(7, tail_lines=-1)), "tail_lines"),
        (lambda c: c.log_items(LogQuery("x")), "job id"),  # type: ignore[arg-type]  # the fault under test
        (lambda c: list(c.events(after_seq=-1)), "after_seq"),
        (lambda c: list(c.events(job_ids=7)), "job_ids"),
        (lambda c: c.wait(7, timeout_s="soon"), "timeout_s"),
        (lambda c: c.signal(7, None), "signal"),
        (lambda c: c.stop(7, grace=[]), "grace"),
    ],
)
def test_bad_input_is_refused_in_the_tree(
    client: Client, ask: Callable[[Any], object], word: str
) -> None:
    """With the argument's name, and without an agent."""
    with pytest.raises(InvalidSpecError, match=word):
        ask(client)


def test_no_job_has_a_name_that_is_not_text(client: Client) -> None:
    """A byte that is not UTF-8 stands in the message as it was typed."""
    for ask in (lambda: client.find("\udcff"), lambda: client.list(name="\udcff")):
        with pytest.raises(JobNotFoundError, match=r"'\\xff'"):
            ask()


def test_a_closed_client_says_so(client: Client) -> None:
    """For calls and for streams."""
    client.close()
    asks: list[Callable[[], object]] = [
        lambda: client.get(1),
        client.list,
        lambda: list(client.logs(1)),
        lambda: list(client.events()),
        lambda: client.wait(1),
        client.agent_info,
        client.stop_agent,
    ]
    for ask in asks:
        with pytest.raises(ClientClosedError, match="closed"):
            ask()


@pytest.mark.parametrize(
    ("since", "moment"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        (60, NOW - timedelta(minutes=1)),
        (0.5, NOW - timedelta(seconds=0.5)),
        ("2025-03-01T11:00:00Z", NOW - timedelta(hours=1)),
        (NOW, NOW),
    ],
)
def test_since_takes_a_while_ago_or_a_time(since: str | float | datetime, moment: datetime) -> None:
    """As text, as seconds or as a datetime."""
    assert read_moment(since, NOW) == moment
