"""One warden a state directory, one a runtime directory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import AlreadyRunningError, UnsafeDirectoryError
from agentd.paths import Paths, prepare
from agentd.system import clock, locks, process
from agentd.warden.main import take_locks
from agentd.warden.warden import write_pidfile
from tests.helpers.agent import Agent
from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.system.sandbox import fork, hang, isolated


def warden(paths: Paths) -> int:
    """Return the pid of a process that holds the agent's locks."""

    def take() -> None:
        take_locks(paths)
        os.write(write_end, b"!")
        hang()

    read_end, write_end = os.pipe()
    pid = fork(take)
    os.close(write_end)
    assert os.read(read_end, 1) == b"!"
    return pid


@isolated
def test_a_state_directory_has_one_agent(tmp_path: Path) -> None:
    """The second is told so, and may start once the first is dead."""
    paths = make_paths(tmp_path)
    first = warden(paths)
    assert locks.is_locked(paths.pidfile) is True

    with pytest.raises(AlreadyRunningError, match=paths.pidfile):
        take_locks(paths)

    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    take_locks(paths)


@isolated
def test_a_runtime_directory_has_one_agent(tmp_path: Path) -> None:
    """Another state directory needs another one: the line says how."""
    paths = make_paths(tmp_path)
    other = Paths(f"{tmp_path}/other", paths.runtime_dir, paths.config_file)
    prepare(other)
    warden(paths)

    with pytest.raises(UnsafeDirectoryError, match="set AGENTD_RUNTIME_DIR"):
        take_locks(other)


@isolated
def test_a_pidfile_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    """What it points to stays as it is."""
    paths = make_paths(tmp_path)
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    os.symlink(target, paths.pidfile)

    with pytest.raises(OSError, match="symbolic"):
        take_locks(paths)

    assert target.read_bytes() == b"mine"


@isolated
def test_the_pidfile_says_who_holds_it_and_where_its_server_is(tmp_path: Path) -> None:
    """Each time whole, the shorter after the longer too; under the same lock."""
    paths = make_paths(tmp_path)
    lock = take_locks(paths)
    me = process.identify(os.getpid())
    assert me is not None

    for socket in ("/run/a/long/path/to/agent.sock", ""):
        write_pidfile(lock, socket)

        assert json.loads(Path(paths.pidfile).read_bytes()) == {
            "version": 1,
            "pid": me.pid,
            "start_ticks": me.start_ticks,
            "boot_id": clock.boot_id(),
            "socket": socket,
        }
    assert locks.is_locked(paths.pidfile) is True


def test_an_agent_keeps_nothing_of_who_started_it(agent: Agent) -> None:
    """Neither a pipe whose end somebody waits for nor a lock that is held by descriptor."""
    read_end, write_end = os.pipe()

    subprocess.run(
        [sys.executable, "-P", "-m", "agentd", "start"],
        env=agent.env,
        pass_fds=(write_end,),
        check=True,
    )
    os.close(write_end)

    assert select.select([read_end], [], [], 10)[0], "the agent holds the pipe"
    assert os.read(read_end, 1) == b""
    assert process.is_running(agent.warden_pid())
    os.close(read_end)
