"""Over a real ssh whose master is killed or frozen: the verbs go on where they stood."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import jobs
from tests.helpers.sshrig import SshRig
from tests.helpers.wait import dawdle


@pytest.fixture(name="far")
def _far(rig: SshRig) -> SshRig:
    """Return a rig whose client knows gpu1, with an agent running there and a warm link."""
    rig.server.start()
    rig.know("gpu1")
    done = rig.client.cli("-H", "gpu1", "ls")
    assert done.returncode == 0, done.stderr
    return rig


@pytest.fixture(name="cutter")
def _cutter(far: SshRig) -> Iterator[threading.Event]:
    """Kill the master again and again until the event is set."""
    done = threading.Event()

    def cut() -> None:
        while not done.is_set():
            dawdle(1.0)
            far.signal_ssh(signal.SIGKILL)

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        yield done
    finally:
        done.set()
        cutting.join()


def _submit(far: SshRig, *argv: str) -> str:
    done = far.client.cli("-H", "gpu1", "submit", "--", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _held(far: SshRig, last: str) -> tuple[str, ...]:
    """Return a job that waits for the file "go" of the server and then does `last`."""
    return (
        "sh",
        "-c",
        f"echo begun; while ! [ -e {far.server.root}/go ]; do sleep 0.05; done; {last}",
    )


def _let_go(far: SshRig) -> None:
    open(f"{far.server.root}/go", "w", encoding="ascii").close()


def test_a_followed_log_is_exact_through_killed_masters(
    far: SshRig, cutter: threading.Event
) -> None:
    """Byte for byte on stdout."""
    printer = jobs.printer(20_000_000, seed=4, pause_s=0.02)
    job = _submit(far, *printer.argv)
    data = far.client.cli_bytes("-H", "gpu1", "logs", "-f", job, timeout=120)
    cutter.set()
    assert len(data) == printer.size_bytes
    assert hashlib.sha256(data).hexdigest() == printer.sha256


def test_run_gives_output_and_status_through_a_killed_master(far: SshRig) -> None:
    """As if nothing had happened."""
    process = far.client.popen(
        "-H", "gpu1", "run", "--", *_held(far, "echo end; exit 7"), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert far.signal_ssh(signal.SIGKILL)
    _let_go(far)
    rest, _ = process.communicate(timeout=30)
    assert (rest, process.returncode) == (b"end\n", 7)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_wait_gives_the_status_of_a_job_that_ended_in_the_cut(
    far: SshRig, number: signal.Signals
) -> None:
    """Whether the master died or only stands."""
    job = _submit(far, *_held(far, "exit 9"))
    process = far.client.popen("-H", "gpu1", "wait", job)
    try:
        # It waits by now, or has still to find the job: the fact is the same.
        dawdle(1.0)
        far.signal_ssh(number)
        _let_go(far)
        assert process.wait(40) == 9
    finally:
        process.kill()
        process.wait()


def test_an_outage_is_told_on_stderr(far: SshRig) -> None:
    """Once when it lasts, once when it is over; the output itself is untouched."""
    process = far.client.popen(
        "-H", "gpu1", "run", "--", *_held(far, "echo end"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"begun\n"
    far.sshd.stop(sessions_too=True)
    line = process.stderr.readline()
    assert line.startswith(b"agentctl: reconnecting to gpu1 ... (")
    far.sshd.start()
    _let_go(far)
    rest, said = process.communicate(timeout=30)
    assert (rest, process.returncode) == (b"end\n", 0)
    assert said.startswith(b"agentctl: gpu1 is back after ")
    assert said.count(b"\n") == 1


def test_followed_events_are_neither_missed_nor_doubled(far: SshRig) -> None:
    """By their cursors, through a master killed after each job."""
    process = far.client.popen(
        "-H", "gpu1", "events", "-f", "--tail", "0", "--json", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    first = far.server.cli("run", "--", "true")
    assert first.returncode == 0
    seen: list[dict[str, Any]] = []
    try:
        for _ in range(4):
            far.signal_ssh(signal.SIGKILL)
            assert far.server.cli("run", "--", "true").returncode == 0
        while not seen or (seen[-1]["job_id"], seen[-1]["kind"]) != (5, "job.ended"):
            seen.append(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()
    listed = far.server.cli("events", "--json").stdout.splitlines()
    whole = [json.loads(line)["seq"] for line in listed]
    got = [event["seq"] for event in seen]
    # When it began is for chance to say: the first job may have been quicker.
    assert got == whole[whole.index(got[0]) :]


def test_a_submit_through_a_frozen_master_starts_one_job(far: SshRig) -> None:
    """It is asked again under its key once the master is replaced."""
    far.signal_ssh(signal.SIGSTOP)
    assert _submit(far, "true") == "1"
    listed = json.loads(far.client.cli("-H", "gpu1", "ls", "--json").stdout)
    assert [job["id"] for job in listed] == [1]
