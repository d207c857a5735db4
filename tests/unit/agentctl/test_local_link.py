"""Finding and starting the agent of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl.errors import (
    AgentNotRunningError,
    HostUnreachableError,
    TryAgainError,
    UnsafeDirectoryError,
)
from agentctl.link import local, open_link
from agentctl.link.local import LocalLink
from agentctl.paths import Paths

# Takes the lock as a warden does and holds it until its stdin ends.
_HOLDER = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="paths")
def _paths() -> Iterator[Paths]:
    """Yield private places below /tmp."""
    with tempfile.TemporaryDirectory(prefix="ac-", dir="/tmp") as root:
        for name in ("s", "r", "other"):
            os.mkdir(f"{root}/{name}", 0o700)
        yield Paths(f"{root}/s", f"{root}/r", f"{root}/config.toml")


@pytest.fixture(name="listener")
def _listener() -> Iterator[socket.socket]:
    """Yield a socket to listen with."""
    with socket.socket(socket.AF_UNIX) as listener:
        yield listener


def listen(listener: socket.socket, path: str) -> None:
    """Answer on `path`."""
    listener.bind(path)
    listener.listen()


def test_a_socket_that_answers_is_the_agent(paths: Paths, listener: socket.socket) -> None:
    """Nothing is started."""
    listen(listener, paths.socket)
    assert LocalLink(paths, start_agent=False).connect(0) == paths.socket


def test_the_pidfile_says_where_the_agent_listens(paths: Paths, listener: socket.socket) -> None:
    """An agent started with another XDG_RUNTIME_DIR is found, by a cron job for one."""
    other = os.path.dirname(paths.state_dir) + "/other/agent.sock"
    listen(listener, other)
    Path(paths.pidfile).write_text(json.dumps({"pid": 1, "socket": other}), encoding="ascii")
    assert LocalLink(paths, start_agent=False).connect(0) == other


@pytest.mark.parametrize("content", ["", "{", "[]", '{"socket": 7}', '{"socket": "/nowhere/x"}'])
def test_a_bad_pidfile_is_only_a_bad_hint(
    paths: Paths, listener: socket.socket, content: str
) -> None:
    """The usual place is looked at anyway."""
    listen(listener, paths.socket)
    Path(paths.pidfile).write_text(content, encoding="ascii")
    assert LocalLink(paths, start_agent=False).connect(0) == paths.socket


def test_a_socket_nobody_listens_on_is_no_agent(paths: Paths, listener: socket.socket) -> None:
    """The file alone says nothing."""
    listener.bind(paths.socket)
    with pytest.raises(AgentNotRunningError, match="agentctl agent start"):
        LocalLink(paths, start_agent=False).connect(0)


def test_a_directory_open_to_others_is_refused(paths: Paths, listener: socket.socket) -> None:
    """Whoever could put a socket there would get the caller's environment."""
    listen(listener, paths.socket)
    os.chmod(paths.runtime_dir, 0o755)  # noqa: S103  # the fault under test
    with pytest.raises(UnsafeDirectoryError, match="chmod 700"):
        LocalLink(paths, start_agent=False).connect(0)


def test_a_socket_is_beyond_doubt_while_its_warden_holds_our_lock(paths: Paths) -> None:
    """A pidfile somebody left behind proves nothing."""
    Path(paths.pidfile).write_text(json.dumps({"socket": paths.socket}), encoding="ascii")
    link = LocalLink(paths, start_agent=False)
    assert link.doubt(paths.socket) == paths.state_dir
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _HOLDER, paths.pidfile],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert link.doubt(paths.socket) is None
        assert link.doubt(paths.runtime_dir + "/another.sock") == paths.state_dir
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_symlink_in_place_of_the_directory_is_refused(paths: Paths) -> None:
    """Also one that leads to a directory of ours."""
    os.rmdir(paths.runtime_dir)
    os.symlink(paths.state_dir, paths.runtime_dir)
    with pytest.raises(UnsafeDirectoryError, match="symlink"):
        LocalLink(paths, start_agent=False).connect(0)


def test_a_socket_path_that_is_too_long_is_said(paths: Paths) -> None:
    """Before the kernel says it in its own words."""
    long = paths._replace(runtime_dir=paths.runtime_dir + "/" + "x" * 100)
    with pytest.raises(UnsafeDirectoryError, match="AGENTD_RUNTIME_DIR"):
        LocalLink(long, start_agent=False).connect(0)


def test_a_held_lock_is_seen_and_not_taken(paths: Paths) -> None:
    """A look never makes an agent fail to start."""
    Path(paths.pidfile).write_text('{"pid": 4711}', encoding="ascii")
    link = LocalLink(paths, start_agent=False)
    assert not link.warden_lives()
    assert link.warden_pid() is None
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _HOLDER, paths.pidfile],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert link.warden_lives()
        assert link.warden_pid() == 4711
        with pytest.raises(TryAgainError, match="does not answer"):
            link.connect(0.05)
        assert holder.stdin is not None
        holder.stdin.close()
    assert not link.warden_lives()


def test_the_agent_is_started_once_for_many_threads(
    paths: Paths, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for the start finds the socket."""
    starts: list[int] = []

    def start() -> tuple[int, str]:
        starts.append(1)
        listen(listener, paths.socket)
        return 0, ""

    monkeypatch.setattr(local, "_run_agent_start", start)
    link = LocalLink(paths, start_agent=True)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(link.connect(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(starts), found) == (1, [paths.socket] * 8)


@pytest.mark.parametrize(
    ("code", "kind"), [(1, HostUnreachableError), (75, TryAgainError), (-9, HostUnreachableError)]
)
def test_a_start_that_fails_says_why(
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[Exception],
) -> None:
    """In the agent's own words."""
    monkeypatch.setattr(local, "_run_agent_start", lambda: (code, "the disk is full"))
    with pytest.raises(kind, match="the disk is full"):
        LocalLink(paths, start_agent=True).connect(1)


def test_an_agent_started_by_a_job_forgets_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be stopped with it."""
    monkeypatch.setenv("AGENTCTL_JOB_UID", "0" * 32)
    monkeypatch.setenv("AGENTCTL_CONFIG", "/c")
    environment = local.agent_environment()
    assert "AGENTCTL_JOB_UID" not in environment
    assert environment["AGENTCTL_CONFIG"] == "/c"


def test_an_unknown_host_names_the_way_to_set_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine needs none."""
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    assert open_link(None).host == open_link("local").host == "local"
    with pytest.raises(HostUnreachableError, match="run: agentctl host add gpu1"):
        open_link("gpu1")
