"""`logs` and `events`: what was written, from anywhere, as it comes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

from tests.helpers import jobs
from tests.helpers.agent import Agent

_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


def test_logs_of_a_job_begin_anywhere(agent: Agent) -> None:
    """At a byte, at a line from the end, at a time."""
    agent.cli("run", "--", "seq", "1", "100", check=True)
    whole = b"".join(b"%d\n" % number for number in range(1, 101))
    assert agent.cli_bytes("logs", "1") == whole
    assert agent.cli_bytes("logs", "--offset", "100", "1") == whole[100:]
    assert agent.cli_bytes("logs", "--tail", "3", "1") == b"98\n99\n100\n"
    assert agent.cli_bytes("logs", "--tail", "0", "1") == b""
    assert agent.cli_bytes("logs", "--since", "1h", "1") == whole
    assert agent.cli_bytes("logs", "--since", "2100-01-01", "1") == b""
    assert agent.cli_bytes("logs", "--offset", "99999", "1") == b""


def test_starts_exclude_each_other(agent: Agent) -> None:
    """One place to begin."""
    agent.cli("run", "--", "true", check=True)
    assert agent.cli("logs", "--tail", "1", "--offset", "1", "1").returncode == 2


def test_follow_ends_with_the_job(agent: Agent) -> None:
    """All of it, and then the command is over."""
    printer = jobs.printer(2_000_000, seed=3, pause_s=0.01)
    job_id = agent.cli("submit", "--", *printer.argv, check=True).stdout.strip()
    data = agent.cli_bytes("logs", "-f", job_id)
    assert hashlib.sha256(data).hexdigest() == printer.sha256


def test_stderr_has_its_own_log_if_split(agent: Agent) -> None:
    """And none otherwise."""
    agent.cli("run", "--split-stderr", "-c", "echo out; echo err >&2", check=True)
    assert agent.cli_bytes("logs", "1") == b"out\n"
    assert agent.cli_bytes("logs", "--stderr", "1") == b"err\n"


def test_timestamps_stand_before_each_line(agent: Agent) -> None:
    """UTC, and the lines unchanged after them."""
    agent.cli("run", "-c", "echo one; sleep 0.2; echo two; printf three", check=True)
    lines = agent.cli_bytes("logs", "--timestamps", "1").split(b"\n")
    assert all(_STAMP.match(line) for line in lines)
    assert [_STAMP.sub(b"", line) for line in lines] == [b"one", b"two", b"three"]


def test_a_reader_that_goes_away_is_quiet(agent: Agent) -> None:
    """`logs | head` says nothing."""
    agent.cli("run", "--", "seq", "1", "200000", check=True)
    reading = agent.popen("logs", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout is not None
    assert reading.stderr is not None
    assert reading.stdout.readline() == b"1\n"
    reading.stdout.close()
    assert reading.wait(timeout=20) == 141
    assert reading.stderr.read() == b""
    reading.stderr.close()


def test_events_tell_a_jobs_life(agent: Agent) -> None:
    """One line or one object an event, oldest first."""
    agent.cli("run", "--name", "a", "--", "sh", "-c", "exit 3")
    agent.cli("run", "--", "true", check=True)
    lines = agent.cli("events", check=True).stdout.splitlines()
    assert "job 1 (a)" in lines[0]
    events = [json.loads(line) for line in agent.cli("events", "--json").stdout.splitlines()]
    assert len(events) == len(lines)
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    kinds = [event["kind"] for event in events if event["job_id"] == 1]
    assert (kinds[0], kinds[-1]) == ("job.submitted", "job.ended")
    assert events[-1]["job"]["exit_code"] == 0
    of_one = agent.cli("events", "--json", "a").stdout.splitlines()
    assert {json.loads(line)["job_id"] for line in of_one} == {1}
    assert len(agent.cli("events", "--tail", "2").stdout.splitlines()) == 2


def test_events_follow(agent: Agent) -> None:
    """What happens from now on, until the reader has seen enough."""
    agent.start()
    with agent.popen("events", "-f", "--tail", "1", "--json", stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        seen: list[str] = []
        for number in range(1, 4):
            agent.cli("submit", "--name", f"n{number}", "--", "true", check=True)
            agent.cli("wait", str(number), check=True)
        while seen[-1:] != ["n3"]:
            event = json.loads(following.stdout.readline())
            if event["kind"] == "job.ended":
                seen.append(event["job"]["name"])
        following.kill()
    # The watch may have begun a moment after the first job.
    assert seen == ["n1", "n2", "n3"][-len(seen) :]


def test_what_retention_dropped_is_named_on_stderr(agent: Agent) -> None:
    """The head and the tail are there, and between them one line that is not output."""
    Path(agent.config_file).write_text('[logs]\nsegment = "64KiB"\n', encoding="ascii")
    agent.start()
    agent.cli("run", "--retain", "1MiB", "-c", "seq 1 1000000", check=True)
    shown = agent.cli("logs", "1", check=True)
    assert re.fullmatch(
        r"\[gap: [\d,]+ bytes dropped to keep the log within its size\]\n", shown.stderr
    )
    assert shown.stdout.startswith("1\n2\n")
    assert shown.stdout.endswith("999999\n1000000\n")
    gap_bytes = int(shown.stderr.split()[1].replace(",", ""))
    assert len(shown.stdout) + gap_bytes == agent.show(1)["log_bytes"]
