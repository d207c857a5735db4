"""`agentctl host` where something is in the way: masks, other homes, signals, other versions."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentctl import __version__
from agentctl.hosts.target import Glibc, Target
from agentctl.hosts.wheels import installed_wheels
from tests.helpers.hosts import (
    BARE,
    BASH,
    TICKING,
    OtherClient,
    add,
    agent_is_from,
    book,
    halves,
    hide_programs,
    host,
    installations,
    installers,
    root_of,
    write_program,
)
from tests.helpers.processes import arguments, children_of
from tests.helpers.sshd import Rules, open_files
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant
from tests.helpers.wait import wait_gone, wait_until

#: The client says where data and state of the server are.
_PLACED = Variant(
    path=BARE_PATH, rules=Rules(accepted_variables=("XDG_DATA_HOME", "AGENTD_STATE_DIR"))
)
_NEWER = "0.1.9"
_FIRST = "from __future__ import annotations\n"


@pytest.mark.parametrize("rig", [BASH], indirect=True)
def test_uv_brings_python(rig: SshRig) -> None:
    """Where there is no Python but uv, uv is asked for one, into the agent's own directory.

    Also where the members of a group may write each other's files by default.
    """
    tools = hide_programs(rig)
    with Path(rig.server.home, ".bashrc").open("a", encoding="utf-8") as file:
        file.write("umask 002\n")
    _deny_pip(rig)
    write_program(
        tools / "uv",
        '[ "$1 $2" = "python install" ] || exit 1\n'
        'PATH=/usr/bin:/bin; mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3/bin"\n'
        f'ln -s {os.path.realpath(sys.executable)} "$UV_PYTHON_INSTALL_DIR/cpython-3/bin/python3"',
    )

    done = host(rig, "add", "gpu1")

    assert done.returncode == 0, done.stderr
    assert (root_of(rig) / "python/cpython-3/bin/python3").exists()
    assert stat.S_IMODE(root_of(rig).stat().st_mode) == 0o700
    # An agent that is started by hand has this umask for its jobs, and so has this one.
    assert _umask_for_jobs(rig.server.warden_pid()) == 0o002


def _umask_for_jobs(warden: int) -> int:
    """Return the umask that the warden began with, which it hands on to its spawner."""
    commands = [arguments(pid) for pid in children_of(warden)]
    (words,) = [words for words in commands if any(b"agentd.shim.spawning" in w for w in words)]
    return int(words[words.index(b"-c") + 4])


def _deny_pip(rig: SshRig) -> None:
    """Let the pip there fail at once: it has no internet."""
    Path(rig.server.home, ".config/pip").mkdir(parents=True)
    Path(rig.server.home, ".config/pip/pip.conf").write_text("[global]\nno-index = true\n", "utf-8")


@pytest.mark.parametrize("rig", [BASH], indirect=True)
def test_uv_installs_where_pip_fails(rig: SshRig) -> None:
    """A real uv there fetches the dependencies, and nothing is sent."""
    tools = hide_programs(rig)
    (tools / "python3").symlink_to(os.path.realpath(sys.executable))
    (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
    _deny_pip(rig)
    index = Path(rig.server.root) / "index"
    index.mkdir()
    here = Target(
        sys.executable,
        (sys.version_info[0], sys.version_info[1]),
        f"cp{sys.version_info[0]}{sys.version_info[1]}",
        os.uname().machine,
        Glibc(_glibc_minor()),
    )
    for wheel in installed_wheels(here) or ():
        (index / wheel.name).write_bytes(wheel.content)
    Path(rig.server.home, ".config/uv").mkdir()
    settings = f'no-index = true\nfind-links = ["{index}"]\n'
    Path(rig.server.home, ".config/uv/uv.toml").write_text(settings, "utf-8")

    done = host(rig, "add", "gpu1")

    assert done.returncode == 0, done.stderr
    assert [agent_is_from(rig)] == installations(root_of(rig))
    (installer,) = root_of(rig).glob("*/lib/*/site-packages/grpcio-*.dist-info/INSTALLER")
    assert installer.read_text("utf-8") == "uv"


def _glibc_minor() -> int:
    return int((os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(".")[2])


@pytest.mark.parametrize("below", ["", "/node1"], ids=["the same directory", "below"])
@pytest.mark.parametrize("rig", [_PLACED], indirect=True)
def test_rm_keeps_data_that_lie_with_the_installation(rig: SshRig, below: str) -> None:
    """Where data home and state home are one, `host rm` removes what `host add` brought alone."""
    root, state = _place(rig, below)
    add(rig)
    wait_until((state / "jobs.db").exists, what="the agent's state")
    (state / "jobs/1").mkdir()
    (state / "jobs/1/stdout").write_text("a night's work", encoding="utf-8")

    done = host(rig, "rm", "gpu1")

    assert done.returncode == 0, done.stderr
    assert (state / "jobs/1/stdout").read_text("utf-8") == "a night's work"
    assert not (root / "bin").exists()
    assert installations(root) == []
    assert not (root / "lock").exists()


@pytest.mark.parametrize("rig", [_PLACED], indirect=True)
def test_purge_keeps_an_installation_that_others_share(rig: SshRig) -> None:
    """Of one directory for both, --purge removes this node's data alone."""
    root, state = _place(rig, "")
    add(rig)
    (mine,) = installations(root)
    (root / "nodes/another-node").write_text(f"{mine}\n", encoding="utf-8")

    done = host(rig, "rm", "--purge", "gpu1")

    assert done.returncode == 0, done.stderr
    assert not (state / "jobs").exists()
    assert installations(root) == [mine]


def _place(rig: SshRig, below: str) -> tuple[Path, Path]:
    data = Path(rig.server.root) / "data"
    data.mkdir(mode=0o700)
    root = data / "agentd"
    state = Path(f"{root}{below}")
    rig.add_to_config(f"Host gpu1\n  SetEnv XDG_DATA_HOME={data} AGENTD_STATE_DIR={state}\n")
    return root, state


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Hold the lock of the installations, as another `host add` would."""
    with (root / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_for_the_next(rig: SshRig) -> None:
    """Wait until an installer on the server looks at the lock."""
    lock = str(root_of(rig) / "lock")
    wait_until(
        lambda: any(lock in open_files(pid) for pid in installers(rig)),
        deadline_s=30,
        what="one who waits for the lock",
    )


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_rm_of_half_an_installation_waits_for_an_add(rig: SshRig) -> None:
    """What another one is about to build is not taken away under it."""
    rig.know()
    root = root_of(rig)
    (root / ".new-x").mkdir(mode=0o700, parents=True)
    with _held(root):
        process = rig.client.popen("host", "rm", "gpu1")
        _wait_for_the_next(rig)
        assert (root / ".new-x").exists()

    with process:
        assert process.wait(60) == 0
    assert not root.exists()


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_add_that_waited_for_an_rm_succeeds(rig: SshRig) -> None:
    """The directory and its lock went meanwhile; they are made anew."""
    root = root_of(rig)
    root.mkdir(mode=0o700, parents=True)
    with _held(root):
        process = rig.client.popen("host", "add", "--offline", "gpu1")
        _wait_for_the_next(rig)
        shutil.rmtree(root)

    with process:
        assert process.wait(60) == 0
    assert [agent_is_from(rig)] == installations(root)


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_add_sweeps_files_that_were_being_written(rig: SshRig) -> None:
    """A crash in the middle of the launcher or of a choice leaves nothing for good."""
    add(rig)
    for directory in ("bin", "nodes"):
        (root_of(rig) / directory / ".new-0123").touch()

    add(rig)

    assert halves(root_of(rig)) == []


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_roll_back_is_not_interrupted(rig: SshRig) -> None:
    """Ctrl-C and a hang-up while the old agent is being brought back: it runs afterwards."""
    add(rig)
    old = agent_is_from(rig)
    job = rig.server.cli("submit", "-c", TICKING, check=True).stdout.strip()
    waiting, go = Path(rig.server.root, "waiting"), Path(rig.server.root, "go")
    _let_start_wait(root_of(rig) / old, waiting, go)
    other = OtherClient(rig, _NEWER)
    other.edit("agentd/app.py", "import argparse", "raise SystemExit('agentd: spoilt')")
    process = other.popen("host", "upgrade", "--offline", "gpu1")
    wait_until(waiting.exists, deadline_s=60, what="the old agent is being started again")
    at_work = set(installers(rig))
    assert at_work

    process.send_signal(signal.SIGINT)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE):
        for pid in at_work:
            os.kill(pid, number)
    go.touch()

    process.wait(60)
    wait_gone(at_work, deadline_s=60, what="the installer's end")
    assert rig.server.warden_pid()
    assert agent_is_from(rig) == old
    assert installations(root_of(rig)) == [old]
    assert rig.server.show(job)["state"] == "running"


def _let_start_wait(place: Path, waiting: Path, go: Path) -> None:
    """Have the next start of this installation's agent wait for a file."""
    (app,) = place.glob("lib/*/site-packages/agentd/app.py")
    text = app.read_text("utf-8")
    wait = (
        "import os, sys, time\n"
        f"if 'start' in sys.argv:\n    open({str(waiting)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(go)!r}):\n        time.sleep(0.01)\n"
    )
    assert _FIRST in text
    app.write_text(text.replace(_FIRST, _FIRST + wait), "utf-8")


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_interrupted_change_brings_the_old_agent_back(rig: SshRig) -> None:
    """Ctrl-C while the new agent is awaited: the old one runs again."""
    add(rig)
    old = agent_is_from(rig)
    waiting = Path(rig.server.root, "waiting")
    other = OtherClient(rig, _NEWER)
    wait = f"import time\nopen({str(waiting)!r}, 'w').close()\ntime.sleep(60)\n"
    other.edit("agentd/app.py", _FIRST, _FIRST + wait)
    process = other.popen("host", "upgrade", "--offline", "gpu1")
    wait_until(waiting.exists, deadline_s=60, what="the new agent is being started")
    at_work = set(installers(rig))

    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 130
    wait_gone(at_work, deadline_s=60, what="the installer's end")
    assert agent_is_from(rig) == old
    assert installations(root_of(rig)) == [old]


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_older_version_over_a_newer_one_must_be_meant(rig: SshRig) -> None:
    """An older client changes nothing by `host add` or `host upgrade`, unless by --force."""
    newer = OtherClient(rig, _NEWER).run("host", "add", "--offline", "gpu1")
    assert newer.returncode == 0, newer.stderr
    pid = rig.server.warden_pid()

    for verb in ("add", "upgrade"):
        refused = host(rig, verb, "--offline", "gpu1")

        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == (
            f"agentctl: gpu1 has agent {_NEWER}, newer than this client, which is {__version__}; "
            f"upgrade agentctl here, or bring that one back to {__version__} with --force"
        )
        assert rig.server.warden_pid() == pid
        assert book(rig)["gpu1"]["version"] == _NEWER
    forced = host(rig, "upgrade", "--offline", "--force", "gpu1")
    assert forced.returncode == 0, forced.stderr
    assert agent_is_from(rig).startswith(f"{__version__}-")
