"""`run`: the job's output and status as if it ran here, without its fate."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess

import pytest

from tests.helpers import jobs
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("true",), 0),
        (("sh", "-c", "exit 255"), 255),
    ],
)
def test_run_exits_with_the_jobs_status(agent: Agent, argv: tuple[str, ...], code: int) -> None:
    """128+n for a signal."""
    assert agent.cli("run", "--", *argv).returncode == code


def test_output_passes_byte_for_byte(agent: Agent) -> None:
    """Every byte, whatever it is."""
    printer = jobs.printer(3_000_000, seed=5)
    data = agent.cli_bytes("run", "--", *printer.argv)
    assert hashlib.sha256(data).hexdigest() == printer.sha256


def test_split_streams_arrive_on_their_own_descriptors(agent: Agent) -> None:
    """And merged ones in the order they were written."""
    line = "echo out; echo err >&2; echo out2"
    split = agent.cli("run", "--split-stderr", "-c", line)
    assert (split.stdout, split.stderr) == ("out\nout2\n", "err\n")
    assert agent.cli("run", "-c", line).stdout == "out\nerr\nout2\n"


def _run(agent: Agent, *argv: str) -> subprocess.Popen[bytes]:
    process = agent.popen(
        "run", "--", *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_until(lambda: agent.cli("ls", "--state", "running", "--json").stdout != "[]\n")
    return process


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


_FOREVER = ("sh", "-c", "echo begun; while sleep 0.1; do echo .; done")


def test_the_first_interrupt_detaches_and_says_how_to_come_back(agent: Agent) -> None:
    """The job goes on; the command exits with 130."""
    process = _run(agent, *_FOREVER)
    assert _first_line(process) == b"begun\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"agentctl logs -f 1" in said
    assert agent.show(1)["state"] == "running"


def test_a_second_interrupt_stops_the_job(agent: Agent) -> None:
    """Within two seconds; its status is then the command's."""
    process = _run(agent, *_FOREVER)
    assert _first_line(process) == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    wait_until(lambda: b"Ctrl-C again" in (process.stderr.read() or b""))  # type: ignore[union-attr]  # set above
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert agent.show(1)["cause"] == "user"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_run_is_not_a_killed_job(agent: Agent, number: int) -> None:
    """The terminal may be closed."""
    process = _run(agent, *_FOREVER)
    _first_line(process)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number
    assert agent.show(1)["state"] == "running"


def test_a_closed_pipe_ends_run_quietly(agent: Agent) -> None:
    """As other tools; the job goes on."""
    process = _run(agent, *_FOREVER)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert agent.show(1)["state"] == "running"


def test_a_program_that_cannot_be_executed_is_said(agent: Agent) -> None:
    """What is seen beforehand is refused with nothing recorded; the rest did not start."""
    path = f"{agent.home}/broken"
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/tmp\n")
    os.chmod(path, 0o700)
    missing = agent.cli("run", "--", f"{agent.home}/none")
    assert (missing.returncode, agent.cli("ls", "--all", "--json").stdout) == (2, "[]\n")
    done = agent.cli("run", "--", path)
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert agent.show(1)["state"] == "start_failed"


def test_one_file_for_both_streams_is_shown_once(agent: Agent) -> None:
    """Named twice, also by another path, it holds both in the order they were written."""
    os.symlink(agent.home, f"{agent.root}/link")
    for other in ("o.log", f"{agent.root}/link/o.log"):
        line = "echo out; echo err >&2; echo out2"
        done = agent.cli("run", "--output", "o.log", "--error", other, "-c", line)
        assert (done.stdout, done.stderr) == ("out\nerr\nout2\n", "")
        with open(f"{agent.home}/o.log", encoding="ascii") as file:
            assert file.read() == "out\nerr\nout2\n"
