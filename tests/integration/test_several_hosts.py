"""Several hosts at once: what answers is shown, and the rest as it was last seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentctl import __version__
from tests.helpers import jobs
from tests.helpers.sshrig import SshRig
from tests.helpers.wait import wait_until


@pytest.fixture(name="far")
def _far(rig: SshRig) -> SshRig:
    """Return a rig whose client knows gpu1, where one job runs, and has one of its own."""
    rig.server.start()
    rig.know("gpu1")
    rig.client.start()
    for where in ("gpu1", "local"):
        done = rig.client.cli("-H", where, "submit", "--name", f"on-{where}", "--", *jobs.sleeper())
        assert done.returncode == 0, done.stderr
    return rig


def test_all_that_answer_are_listed_with_their_host(far: SshRig) -> None:
    """As a table and as one array."""
    for choice in (["-H", "gpu1,local"], ["--all-hosts"]):
        done = far.client.cli("ls", *choice)
        assert (done.returncode, done.stderr) == (0, "")
        rows = [line.split()[:4] for line in done.stdout.splitlines()]
        assert rows[0] == ["HOST", "ID", "NAME", "STATE"]
        assert ["gpu1", "1", "on-gpu1", "running"] in rows
        assert ["local", "1", "on-local", "running"] in rows
    listed = json.loads(far.client.cli("ls", "-H", "gpu1,local", "--json").stdout)
    assert [(job["host"], job["id"]) for job in listed] == [("gpu1", 1), ("local", 1)]


def test_a_host_out_of_reach_is_shown_as_last_seen(far: SshRig) -> None:
    """Within the second that is given to it; its jobs have not failed, and the code says it."""
    assert far.client.cli("ls", "-H", "gpu1").returncode == 0
    far.sshd.stop(sessions_too=True)
    far.signal_ssh(signal.SIGKILL)
    began_s = time.monotonic()
    done = far.client.cli("ls", "--all-hosts")
    assert time.monotonic() - began_s < 3
    assert done.returncode == 69
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("gpu1"))
    assert line.split()[1:4] == ["1", "on-gpu1", "running"]
    assert " ago" in line
    assert "gpu1 does not answer, last seen " in done.stderr
    # A program takes what it is given for the present.
    listed = json.loads(far.client.cli("ls", "--all-hosts", "--json").stdout)
    assert [job["host"] for job in listed] == ["local"]
    filtered = far.client.cli("ls", "--all-hosts", "--state", "ended")
    assert "gpu1 " not in filtered.stdout
    far.sshd.start()


def test_every_listing_remembers_for_all_others(far: SshRig) -> None:
    """What `host ls` has seen is what `ls` shows of a host that is away, and the other way."""
    assert far.client.cli("host", "ls").returncode == 0
    assert os.listdir(f"{far.client.root}/xc/agentctl") == ["hosts"]
    far.sshd.stop(sessions_too=True)
    far.signal_ssh(signal.SIGKILL)
    listed = far.client.cli("ls", "--all-hosts").stdout
    (line,) = (line for line in listed.splitlines() if line.startswith("gpu1"))
    assert line.split()[1:4] == ["1", "on-gpu1", "running"]
    (row,) = json.loads(far.client.cli("host", "ls", "--json").stdout)
    assert (row["state"], row["jobs"]) == ("away", 1)
    assert row["last_seen_at"] is not None
    said = far.client.cli("host", "ls").stderr
    assert said.startswith("agentctl: gpu1 does not answer, last seen ")
    assert said.count("\n") == 1
    far.sshd.start()


def test_what_is_remembered_is_for_the_user_alone(far: SshRig) -> None:
    """And a torn file is nothing worse than none."""
    assert far.client.cli("ls", "-H", "gpu1").returncode == 0
    path = Path(f"{far.client.root}/xc/agentctl/hosts/gpu1.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text('{"format": 1, "jobs": [{', encoding="ascii")
    assert far.client.cli("ls", "--all-hosts").returncode == 0


def test_wait_takes_jobs_of_several_hosts(far: SshRig) -> None:
    """The status is the first that is not 0, in the order given."""
    process = far.client.popen("wait", "gpu1:on-gpu1", "local:1")
    for where in ("local", "gpu1"):
        assert far.client.cli("-H", where, "kill", "1").returncode == 0
    assert process.wait(20) == 137
    refused = far.client.cli("wait", "-H", "gpu1,local", "1")
    assert refused.returncode == 2
    assert "gpu1:1" in refused.stderr


def test_a_wait_that_is_over_first_says_what_was_asked_for(far: SshRig) -> None:
    """Not what was left of it when the host was asked."""
    done = far.client.cli("wait", "--timeout", "0.5", "gpu1:1")
    assert done.returncode == 75
    assert done.stderr == "agentctl: gpu1:1: job 1 is not over after 0.5 s\n"


@pytest.mark.parametrize("verb", ["wait", "events"])
def test_a_job_of_a_host_that_is_none_is_not_merely_unknown(far: SshRig, verb: str) -> None:
    """A job's name may hold a colon, and so may a mistyped host."""
    done = far.client.cli(verb, "gpu7:1")
    assert done.returncode == 1
    assert done.stderr == (
        "agentctl: no job has the name 'gpu7:1'; agentctl ls --all lists them; "
        "gpu7 is no host, see: agentctl host ls\n"
    )


def test_events_of_a_job_need_no_option_for_its_host(far: SshRig) -> None:
    """As `wait`."""
    lines = far.client.cli("events", "gpu1:on-gpu1").stdout.splitlines()
    assert {tuple(line.split()[1:5]) for line in lines} >= {("gpu1", "job", "1", "(on-gpu1)")}
    assert {line.split()[1] for line in lines} == {"gpu1"}


def test_what_to_do_next_is_for_the_host_meant(far: SshRig) -> None:
    """The same line without -H would look at another agent."""
    for words in (["-H", "gpu1", "show", "nope"], ["wait", "gpu1:nope"]):
        done = far.client.cli(*words)
        assert done.returncode == 1
        assert "no job has the name 'nope'; agentctl -H gpu1 ls --all lists them" in done.stderr


def test_an_agent_too_old_has_answered(far: SshRig) -> None:
    """It is to be upgraded, and is not away: its own words are told."""
    code = (
        "import sys, agentctl; agentctl.__version__ = '9.9.0'; "
        "from agentctl.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def newer(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            env=far.client.env,
            cwd=far.client.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
            text=True,
        )

    complaint = (
        f"agentctl: gpu1: agentctl 9.9.0 does not understand the agent's version {__version__}; "
        "run: agentctl host upgrade gpu1 (jobs go on)\n"
    )
    listed = newer("host", "ls")
    assert listed.stdout.splitlines()[1].split()[2:4] == ["upgrade", __version__]
    assert (listed.returncode, listed.stderr) == (0, complaint)
    (row,) = json.loads(newer("host", "ls", "--json").stdout)
    assert (row["state"], row["version"]) == ("upgrade", __version__)
    jobs_listed = newer("ls", "--all-hosts")
    assert complaint in jobs_listed.stderr
    assert "does not answer" not in jobs_listed.stderr
    assert jobs_listed.returncode == 69


def test_a_host_that_cannot_be_asked_is_no_end_of_its_job(far: SshRig) -> None:
    """The other's status is told, the code is that of the link."""
    assert far.client.cli("kill", "1").returncode == 0
    far.sshd.stop(sessions_too=True)
    far.signal_ssh(signal.SIGKILL)
    done = far.client.cli("wait", "gpu1:1", "local:1", timeout=60)
    assert done.returncode in {69, 75}
    assert "gpu1:1" in done.stderr
    far.sshd.start()


def test_events_of_several_hosts_are_merged_by_time(far: SshRig) -> None:
    """Each line names its host."""
    lines = far.client.cli("events", "--all-hosts").stdout.splitlines()
    assert {line.split()[1] for line in lines} == {"gpu1", "local"}
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_events_of_several_hosts_are_followed(far: SshRig) -> None:
    """As they happen, wherever they happen."""
    process = far.client.popen("events", "-f", "--all-hosts", "--json", stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for where in ("gpu1", "local"):
            assert far.client.cli("-H", where, "kill", "1").returncode == 0
        ended: set[str] = set()
        while ended != {"gpu1", "local"}:
            event = json.loads(process.stdout.readline())
            if event["kind"] == "job.ended":
                ended.add(event["job"]["host"])
    finally:
        process.kill()
        process.communicate()


def test_a_host_that_is_away_at_the_start_joins_when_it_is_back(far: SshRig) -> None:
    """What it has to tell comes then, a line on stderr says who is waited for, and the end is 0."""
    far.sshd.stop(sessions_too=True)
    far.signal_ssh(signal.SIGKILL)
    process = far.client.popen(
        *("events", "-f", "--all-hosts", "gpu1:1", "local:1", "--json", "--tail", "50"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"agentctl: waiting for gpu1 ... (cannot reach")
        assert json.loads(process.stdout.readline())["job"]["host"] == "local"
        far.sshd.start()
        for where in ("gpu1", "local"):
            assert far.client.cli("-H", where, "kill", "1").returncode == 0
        out, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    ended = [event for event in map(json.loads, out.splitlines()) if event["kind"] == "job.ended"]
    assert {event["job"]["host"] for event in ended} == {"gpu1", "local"}
    assert said.startswith(b"agentctl: gpu1 answers after ")
    assert said.count(b"\n") == 1
    assert process.returncode == 0


def test_a_host_that_no_waiting_mends_is_given_up(far: SshRig) -> None:
    """With its own complaint; the others are followed to their end, and the code says it."""
    far.sshd.stop(sessions_too=True)
    far.signal_ssh(signal.SIGKILL)
    Path(f"{far.client.root}/known_hosts").write_text("", encoding="ascii")
    far.sshd.start()
    process = far.client.popen(
        *("events", "-f", "--all-hosts", "gpu1:1", "local:1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"its host key is not known here" in process.stderr.readline()
        assert far.client.cli("kill", "1").returncode == 0
        assert process.wait(20) == 69
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [None, signal.SIGSTOP, signal.SIGKILL])
def test_a_frozen_host_keeps_nobody(far: SshRig, number: signal.Signals | None) -> None:
    """All is told in time, the process ends with it, and ssh gives its login up by itself.

    Whether the master on this side does not know of it yet, is frozen too, or is dead.
    """
    assert far.client.cli("ls", "--all-hosts").returncode == 0
    frozen = far.sshd.pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    if number is not None:
        far.signal_ssh(number)
    before = far.ssh_pids()
    for verb in (["ls", "--all-hosts"], ["host", "ls"]):
        began_s = time.monotonic()
        done = far.client.cli(*verb)
        took_s = time.monotonic() - began_s
        assert took_s < 1.5, done
        assert "gpu1" in done.stdout
        assert " ago" in done.stdout
    assert far.client.cli("ls", "--all-hosts").returncode == 69
    wait_until(lambda: far.ssh_pids() <= before, deadline_s=30, what="no login for nobody")
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


def test_a_login_that_takes_longer_than_a_listing_serves_the_next(far: SshRig) -> None:
    """Otherwise a host behind a jump would never be listed."""
    assert far.client.cli("ls", "--all-hosts").returncode == 0
    logins = far.sshd.log.count("Accepted publickey")
    far.signal_ssh(signal.SIGKILL)
    wait_until(lambda: not far.ssh_pids(), what="no master")
    frozen = far.sshd.pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    assert far.client.cli("ls", "--all-hosts").returncode == 69
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)

    def is_listed() -> bool:
        return far.client.cli("ls", "--all-hosts").returncode == 0

    wait_until(is_listed, deadline_s=20, what="the host in the listing")
    assert far.sshd.log.count("Accepted publickey") == logins + 1


@pytest.mark.parametrize("verb", [["submit", "--", "true"], ["logs", "1"], ["stop", "1"]])
def test_other_verbs_take_one_host(far: SshRig, verb: list[str]) -> None:
    """And say so before anything is done."""
    refused = far.client.cli("-H", "gpu1,local", *verb)
    assert refused.returncode == 2
    assert refused.stderr == (
        "agentctl: -H gpu1,local: only ls, events and wait take several hosts; name one\n"
    )
    assert wait_until(lambda: far.client.show(1)["state"]) == "running"
