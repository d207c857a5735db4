"""Several hosts at once: what answers is shown, and the rest as it was last seen."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("verb", [["submit", "--", "true"], ["logs", "1"], ["stop", "1"]])
def test_other_verbs_take_one_host(far: SshRig, verb: list[str]) -> None:
    """And say so before anything is done."""
    refused = far.client.cli("-H", "gpu1,local", *verb)
    assert refused.returncode == 2
    assert "name one" in refused.stderr
    assert wait_until(lambda: far.client.show(1)["state"]) == "running"
