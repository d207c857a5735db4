"""Directories and sockets that are wrong, unsafe, or taken away: one line, or healed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.helpers.agent import Agent
from tests.helpers.processes import processes_of
from tests.helpers.wait import name_of, wait_until

#: Of the client where it says no by itself, and where the agent does.
_REFUSED = frozenset({1, 69})


def _refusal(agent: Agent, *argv: str) -> str:
    """Run a command that must fail before anything happens, and return its one line."""
    done = agent.cli(*argv)
    assert done.returncode in _REFUSED, done
    assert done.stdout == ""
    assert done.stderr.startswith("agentctl: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not agent.processes()
    return done.stderr


def _remove(directory: str) -> None:
    """Remove a directory in which a living agent may make a file under our hands."""

    def is_removed() -> bool:
        shutil.rmtree(directory, ignore_errors=True)
        return not os.path.exists(directory)

    wait_until(is_removed, what=f"{directory} is removed")


def _submit_refused(agent: Agent) -> str:
    return _refusal(agent, "submit", "--", "true")


@contextmanager
def _owned_by_another(agent: Agent, path: str, variable: str) -> Iterator[None]:
    """Make a directory somebody else's: by chown for root, else by choosing one of root's."""
    if os.geteuid() == 0:
        os.chown(path, 1, 1)
        yield
        os.chown(path, 0, 0)
        return
    agent.env[variable] = "/usr"
    yield
    agent.env[variable] = path


@pytest.mark.parametrize("which", ["state", "runtime"])
class TestUnsafe:
    """The directory of the job files, and that of the socket."""

    def test_not_ours(self, agent: Agent, which: str) -> None:
        """What belongs to somebody else is not used."""
        path = agent.state_dir if which == "state" else agent.runtime_dir
        with _owned_by_another(agent, path, f"AGENTD_{which.upper()}_DIR"):
            assert "not to you" in _submit_refused(agent)

    def test_open_to_others(self, agent: Agent, which: str) -> None:
        """The line says how to close it."""
        path = agent.state_dir if which == "state" else agent.runtime_dir
        os.chmod(path, 0o750)  # noqa: S103  # the fault under test
        assert f"chmod 700 {path}" in _submit_refused(agent)
        os.chmod(path, 0o700)
        agent.cli("run", "--", "true", check=True)

    def test_a_symlink(self, agent: Agent, which: str) -> None:
        """Whoever made it could turn it elsewhere."""
        path = agent.state_dir if which == "state" else agent.runtime_dir
        os.rename(path, f"{agent.root}/target")
        os.symlink(f"{agent.root}/target", path)
        assert "symlink" in _submit_refused(agent)
        os.unlink(path)
        os.rename(f"{agent.root}/target", path)

    def test_a_file(self, agent: Agent, which: str) -> None:
        """Something else of that name."""
        path = agent.state_dir if which == "state" else agent.runtime_dir
        os.rmdir(path)
        with open(path, "x", encoding="ascii"):
            pass
        assert "not a directory" in _submit_refused(agent)
        os.unlink(path)
        os.mkdir(path, 0o700)


def test_a_socket_path_that_is_too_long(agent: Agent) -> None:
    """The line says which variable helps; an agent elsewhere is not disturbed."""
    agent.env["AGENTD_RUNTIME_DIR"] = f"{agent.root}/{'long' * 30}"
    line = _submit_refused(agent)
    assert "AGENTD_RUNTIME_DIR" in line
    assert "longer than 100 bytes" in line


def test_two_state_directories_and_one_runtime_directory(agent: Agent) -> None:
    """The second agent would answer for the first one's jobs: it is refused."""
    agent.start()
    other = {**agent.env, "AGENTD_STATE_DIR": f"{agent.root}/s2"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agentd", "start"],
        env=other,
        cwd=agent.home,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "AGENTD_RUNTIME_DIR" in done.stderr
    assert done.stderr.count("\n") == 1


def test_twenty_starts_at_once_make_one_agent(agent: Agent) -> None:
    """All twenty commands are answered, by the same one."""
    with ThreadPoolExecutor(20) as pool:
        runs = [pool.submit(agent.cli, "submit", "--", "true", timeout=60) for _ in range(20)]
        done = [run.result() for run in runs]
    assert [run.stderr for run in done] == [""] * 20
    assert sorted(int(run.stdout) for run in done) == list(range(1, 21))
    wardens = [pid for pid in processes_of(agent.root) if name_of(pid) == "agentd-warden"]
    assert wardens == [agent.warden_pid()]


def test_a_socket_that_was_removed_comes_back(agent: Agent) -> None:
    """A cleaner of /tmp costs a second or two, and no job anything."""
    job_id = int(agent.cli("submit", "--", "sleep", "600", check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="the job runs")
    before = (agent.warden_pid(), agent.server_pid())
    os.unlink(f"{agent.runtime_dir}/agent.sock")

    wait_until(
        lambda: os.path.exists(f"{agent.runtime_dir}/agent.sock"),
        deadline_s=8,
        what="the socket is back",
    )

    assert agent.show(job_id)["state"] == "running"
    assert (agent.warden_pid(), agent.server_pid()) == before


def test_a_runtime_directory_that_was_removed_comes_back(agent: Agent) -> None:
    """With its mode, and again and again."""
    agent.start()
    before = (agent.warden_pid(), agent.server_pid())
    for _ in range(2):
        _remove(agent.runtime_dir)
        wait_until(
            lambda: os.path.exists(f"{agent.runtime_dir}/agent.sock"),
            deadline_s=8,
            what="the socket is back",
        )
        assert os.stat(agent.runtime_dir).st_mode & 0o777 == 0o700
        assert agent.cli("ls").returncode == 0
    assert (agent.warden_pid(), agent.server_pid()) == before


def test_commands_wait_for_a_socket_that_is_coming_back(agent: Agent) -> None:
    """No second agent is started meanwhile, and none is refused."""
    agent.start()
    before = agent.warden_pid()
    _remove(agent.runtime_dir)
    done = agent.cli("run", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert agent.warden_pid() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"4711\n", b"\0" * 4096, json.dumps({"pid": 1, "socket": "/nowhere"}).encode()],
    ids=["empty", "torn", "a number", "zeros", "of a dead agent"],
)
def test_a_stale_pidfile_is_no_agent(agent: Agent, content: bytes) -> None:
    """Only its lock counts."""
    with open(f"{agent.state_dir}/agent.pid", "wb") as file:
        file.write(content)
    os.chmod(f"{agent.state_dir}/agent.pid", 0o600)
    assert agent.cli("agent", "status").returncode == 1
    agent.cli("run", "--", "true", check=True)
    assert agent.warden_pid()


def test_a_stale_pidfile_is_no_reason_to_signal_anybody(agent: Agent) -> None:
    """`agent stop` with a pidfile that names a living process of somebody else's."""
    with subprocess.Popen(["sleep", "600"]) as foreign:
        with open(f"{agent.state_dir}/agent.pid", "w", encoding="ascii") as file:
            json.dump({"version": 1, "pid": foreign.pid, "socket": ""}, file)
        assert agent.cli("agent", "stop").returncode == 0
        assert foreign.poll() is None
        foreign.kill()


_OTHER_LEVEL = """
import sys
import agentctl.api.channel as channel
from agentctl.cli import main

channel.METADATA = (("agentctl-api-level", "99"),)
sys.argv = ["agentctl", "ls"]
sys.exit(main())
"""


def test_an_agent_of_another_version_is_refused(agent: Agent) -> None:
    """One line with both versions and what to do; the agent and its jobs are left alone."""
    agent.start()
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_LEVEL],
        env=agent.env,
        cwd=agent.home,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "99" in done.stderr
    assert "1" in done.stderr
    assert agent.cli("ls").returncode == 0
