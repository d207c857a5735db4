"""`agentctl host`: a bare server is made ready over a real sshd, upgraded, and left clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from agentctl import __version__
from agentctl.hosts.wheels import own_wheel
from tests.helpers.mounts import set_read_only, tmpfs
from tests.helpers.processes import arguments
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant
from tests.helpers.wait import wait_until

_BARE = Variant(path=BARE_PATH)
#: The client says where the server's data home is.
_MOVABLE = Variant(path=BARE_PATH, rules=Rules(accepted_variables=("XDG_DATA_HOME",)))
#: What `.bashrc` sets holds for commands over ssh too.
_BASH = Variant(path=BARE_PATH, rules=Rules(login_shell="bash"))

_TICKING = (
    "echo begun; while [ ! -e go ]; do echo tick; sleep 0.02; done; echo ended by itself; exit 7"
)


def _root(rig: SshRig) -> Path:
    return Path(rig.server.home) / ".local/share/agentd"


def _host(rig: SshRig, *words: str) -> subprocess.CompletedProcess[str]:
    return rig.client.cli("host", *words, timeout=150)


def _add(rig: SshRig) -> None:
    done = _host(rig, "add", "--offline", "gpu1")
    assert done.returncode == 0, done.stderr


def _installations(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/install.json"))


def _halves(root: Path) -> list[str]:
    return [str(path) for path in root.rglob(".new-*")] + [str(p) for p in root.rglob(".old-*")]


def _agent_is_from(rig: SshRig) -> str:
    """Return the name of the installation that the running agent was started from."""
    program = arguments(rig.server.warden_pid())[0].decode()
    return Path(program).parent.parent.name


def _installers(rig: SshRig) -> list[int]:
    """Return the processes that install on the server."""
    running = rig.server.processes()
    return [pid for pid in running if any(b"sys.stdin.buffer" in word for word in arguments(pid))]


def _book(rig: SshRig) -> dict[str, dict[str, str]]:
    path = Path(f"{rig.client.root}/xs/agentctl/hosts.json")
    if not path.exists():
        return {}
    hosts: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))["hosts"]
    return hosts


class _OtherClient:
    """An agentctl of another version on the same laptop."""

    def __init__(self, rig: SshRig, version: str) -> None:
        self.root = Path(rig.client.root) / f"agentctl-{version}"
        self._rig = rig
        with zipfile.ZipFile(BytesIO(own_wheel().content)) as wheel:
            wheel.extractall(self.root)
        info = self.root / f"agentctl-{__version__}.dist-info"
        info.rename(self.root / f"agentctl-{version}.dist-info")
        for name in ("agentd/__init__.py", "agentctl/__init__.py"):
            self.edit(name, f'__version__ = "{__version__}"', f'__version__ = "{version}"')
        name = f"agentctl-{version}.dist-info/METADATA"
        self.edit(name, f"Version: {__version__}", f"Version: {version}")

    def edit(self, name: str, before: str, after: str) -> None:
        path = self.root / name
        text = path.read_text("utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "agentctl", *words],
            env={**self._rig.client.env, "PYTHONPATH": str(self.root)},
            cwd=self._rig.client.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=150,
            text=True,
        )


@pytest.mark.parametrize(
    "rig",
    [
        pytest.param(_BARE, id="plain"),
        pytest.param(Variant(path=BARE_PATH, is_noisy=True), id="noisy"),
        *(
            pytest.param(Variant(Rules(login_shell=shell), is_noisy=True, path=BARE_PATH), id=shell)
            for shell in ("tcsh", "fish")
        ),
        pytest.param(Variant(path=BARE_PATH, rules=Rules(may_forward=False)), id="no forwarding"),
        pytest.param(Variant(path=BARE_PATH, has_jump=True), id="two hops"),
    ],
    indirect=True,
)
def test_bare_server_is_made_ready(rig: SshRig) -> None:
    """`host add` needs nothing but a Python there, whatever the login shell is and prints."""
    done = _host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"gpu1 is ready: agent {__version__} installed\n"
    assert _book(rig)["gpu1"]["agentd"] == str(_root(rig) / "bin/agentd")
    assert [_agent_is_from(rig)] == _installations(_root(rig))
    assert _halves(_root(rig)) == []


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_job_runs_on_added_host(rig: SshRig) -> None:
    """The first command after `host add` works."""
    _add(rig)

    done = rig.client.cli("-H", "gpu1", "run", "--", "echo", "from afar", timeout=60)

    assert (done.returncode, done.stdout) == (0, "from afar\n"), done.stderr


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_add_again_uses_what_is_there(rig: SshRig) -> None:
    """A second `host add` installs nothing and leaves the running agent alone."""
    _add(rig)
    pid = rig.server.warden_pid()

    done = _host(rig, "add", "--offline", "gpu1")

    assert done.stdout == f"gpu1 is ready: agent {__version__} was there already\n"
    assert rig.server.warden_pid() == pid


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_add_rebuilds_damaged_installation(rig: SshRig) -> None:
    """An installation of which a file was emptied (a power cut) is built anew."""
    _add(rig)
    victim = next(_root(rig).glob("*/lib/*/site-packages/agentd/app.py"))
    victim.write_bytes(b"")

    done = _host(rig, "add", "--offline", "gpu1")

    assert "installed" in done.stdout, done.stderr
    assert victim.stat().st_size > 0
    assert _halves(_root(rig)) == []


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_two_adds_at_once_install_once(rig: SshRig) -> None:
    """Of two `host add` at once both succeed, and one installation comes of it."""
    words = ("host", "add", "--offline", "gpu1")
    both = [rig.client.popen(*words, stdout=subprocess.PIPE) for _ in range(2)]

    said = sorted(process.communicate(timeout=120)[0].decode() for process in both)

    assert [process.returncode for process in both] == [0, 0]
    ready = f"gpu1 is ready: agent {__version__}"
    assert said == [f"{ready} installed\n", f"{ready} was there already\n"]
    assert len(_installations(_root(rig))) == 1


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_interrupted_add_leaves_nothing(rig: SshRig) -> None:
    """Ctrl-C in the middle removes what was there of it, and the host is not in the book."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.DEVNULL)
    wait_until(lambda: list(_root(rig).glob(".new-*")), deadline_s=60, what="half an installation")

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    wait_until(lambda: not _root(rig).exists(), what="nothing left on the server")
    assert _book(rig) == {}


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_killed_add_is_made_good_by_the_next(rig: SshRig) -> None:
    """What a SIGKILL on the server left half is swept by running the same command again."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.PIPE)
    wait_until(lambda: list(_root(rig).glob(".new-*")), deadline_s=60, what="half an installation")
    rig.server.kill(*_installers(rig))

    complaint = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 75
    assert "run the same command again" in complaint
    assert _halves(_root(rig)) != []
    _add(rig)
    assert _halves(_root(rig)) == []


@pytest.mark.parametrize(
    "step", [".new-*/lib/*/site-packages/grpc", "*/install.json", "bin/agentd", "nodes/*"]
)
@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_one_command_recovers_from_a_kill_at_any_step(rig: SshRig, step: str) -> None:
    """Wherever installer and client die, `host add` makes the host ready."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.DEVNULL)
    wait_until(lambda: list(_root(rig).glob(step)), deadline_s=60, what=step)

    for pid in (*_installers(rig), process.pid):
        os.kill(pid, signal.SIGKILL)

    process.wait(30)
    _add(rig)
    assert [_agent_is_from(rig)] == _installations(_root(rig))
    assert _halves(_root(rig)) == []


@pytest.mark.parametrize("rig", [_BASH], indirect=True)
def test_server_without_python_is_told_so(rig: SshRig) -> None:
    """One line says what is missing and what to do."""
    _hide_programs(rig)

    done = _host(rig, "add", "gpu1")

    assert done.returncode == 1
    assert done.stderr == (
        "agentctl: gpu1 has no Python 3.11 or newer; install one there, or uv, or name one: "
        "agentctl host add gpu1 --python /path/to/python3\n"
    )
    assert not _root(rig).exists()


@pytest.mark.parametrize("rig", [_BASH], indirect=True)
def test_old_python_is_named(rig: SshRig) -> None:
    """A Python that is too old is named with its version."""
    tools = _hide_programs(rig)
    _write_program(tools / "python3", '[ "$1" = --version ] && echo Python 3.9.2; exit 1')

    done = _host(rig, "add", "gpu1")

    assert f"(found {tools}/python3 Python 3.9.2)" in done.stderr


@pytest.mark.parametrize("rig", [_BASH], indirect=True)
def test_uv_brings_python(rig: SshRig) -> None:
    """Where there is no Python but uv, uv is asked for one, into the agent's own directory."""
    tools = _hide_programs(rig)
    # The Python that comes has a pip, and the server no internet.
    Path(rig.server.home, ".config/pip").mkdir(parents=True)
    Path(rig.server.home, ".config/pip/pip.conf").write_text("[global]\nno-index = true\n", "utf-8")
    _write_program(
        tools / "uv",
        '[ "$1 $2" = "python install" ] || exit 1\n'
        'PATH=/usr/bin:/bin; mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3/bin"\n'
        f'ln -s {os.path.realpath(sys.executable)} "$UV_PYTHON_INSTALL_DIR/cpython-3/bin/python3"',
    )

    done = _host(rig, "add", "gpu1")

    assert done.returncode == 0, done.stderr
    assert (_root(rig) / "python/cpython-3/bin/python3").exists()


def test_named_python_must_be_one(rig: SshRig) -> None:
    """--python with a path that is no Python there is refused with that path."""
    done = _host(rig, "add", "--python", "/no/such/python3", "gpu1")

    assert done.returncode == 1
    assert "/no/such/python3 on gpu1 is no Python 3.11 or newer" in done.stderr


def _hide_programs(rig: SshRig) -> Path:
    """Let commands over ssh find shells alone; return the directory in which they look."""
    tools = Path(rig.server.home) / "tools"
    tools.mkdir()
    for shell in ("sh", "bash"):
        (tools / shell).symlink_to(f"/bin/{shell}")
    Path(rig.server.home, ".bashrc").write_text(f"PATH={tools}\n", encoding="utf-8")
    return tools


def _write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.root
@pytest.mark.parametrize("rig", [_MOVABLE], indirect=True)
def test_full_disk_is_named_and_nothing_left(rig: SshRig) -> None:
    """No room on the server: one line says so, and the partial directory is removed."""
    data = _move_data_home(rig)

    with tmpfs(str(data), 8 << 20):
        done = _host(rig, "add", "--offline", "gpu1")

        assert done.returncode == 1
        assert "no room on gpu1: " in done.stderr
        assert "No space left on device; nothing was left behind" in done.stderr
        assert list(data.iterdir()) == []
    assert _book(rig) == {}


@pytest.mark.root
@pytest.mark.parametrize("rig", [_MOVABLE], indirect=True)
def test_read_only_home_is_named(rig: SshRig) -> None:
    """A home that cannot be written is named as that."""
    data = _move_data_home(rig)

    with tmpfs(str(data), 1 << 20):
        set_read_only(str(data), True)
        done = _host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 1
    assert f"cannot write on gpu1: {data}/agentd: Read-only file system" in done.stderr


@pytest.mark.parametrize("rig", [_MOVABLE], indirect=True)
def test_directory_open_to_others_is_refused(rig: SshRig) -> None:
    """Where others could put a program, none is installed."""
    data = _move_data_home(rig)
    (data / "agentd").mkdir()
    (data / "agentd").chmod(0o777)

    done = _host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 1
    assert f"run there: chmod 700 {data}/agentd" in done.stderr


def _move_data_home(rig: SshRig) -> Path:
    data = Path(rig.server.root) / "data"
    data.mkdir(mode=0o700)
    rig.add_to_config(f"Host gpu1\n  SetEnv XDG_DATA_HOME={data}\n")
    return data


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_upgrade_leaves_running_job_alone(rig: SshRig) -> None:
    """A job that runs over `host upgrade` keeps its processes, its output and its status."""
    _add(rig)
    job = rig.server.cli("submit", "-c", _TICKING, check=True).stdout.strip()
    wait_until(lambda: b"tick" in rig.server.cli_bytes("logs", job), what="the job's output")
    before = (rig.server.show(job)["pid"], rig.server.show(job)["shim_pid"])

    done = _OtherClient(rig, "0.1.9").run("host", "upgrade", "--offline", "gpu1")

    assert done.stdout == "gpu1 is ready: agent 0.1.9 installed, 1 running job went on\n", done
    assert _agent_is_from(rig).startswith("0.1.9-")
    assert len(_installations(_root(rig))) == 2
    assert (rig.server.show(job)["pid"], rig.server.show(job)["shim_pid"]) == before
    Path(rig.server.home, "go").touch()
    assert rig.server.cli("wait", job).returncode == 7
    lines = rig.server.cli_bytes("logs", job).splitlines()
    assert (lines[0], lines[-1]) == (b"begun", b"ended by itself")
    assert set(lines[1:-1]) == {b"tick"}
    assert _book(rig)["gpu1"]["version"] == "0.1.9"


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_upgrade_that_fails_is_taken_back(rig: SshRig) -> None:
    """A new version that does not start is removed; the old agent runs again, the job too."""
    _add(rig)
    old = _agent_is_from(rig)
    job = rig.server.cli("submit", "-c", _TICKING, check=True).stdout.strip()
    other = _OtherClient(rig, "0.1.9")
    other.edit("agentd/app.py", "import argparse", "raise SystemExit('agentd: spoilt')")

    done = other.run("host", "upgrade", "--offline", "gpu1")

    assert done.returncode == 69
    expected = f"agentctl: the agent on gpu1 does not start: agentd: spoilt; {old} is back"
    assert done.stderr.startswith(expected)
    wait_until(rig.server.warden_pid, what="the old agent")
    assert _agent_is_from(rig) == old
    assert _installations(_root(rig)) == [old]
    assert _book(rig)["gpu1"]["version"] == __version__
    assert rig.server.show(job)["state"] == "running"


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_third_version_removes_the_first(rig: SshRig) -> None:
    """The version before the present one is kept, older ones that nobody runs are not."""
    _add(rig)
    for version in ("0.1.8", "0.1.9"):
        done = _OtherClient(rig, version).run("host", "upgrade", "--offline", "--all")
        assert done.returncode == 0, done.stderr

    kept = [name.partition("-")[0] for name in _installations(_root(rig))]
    assert kept == ["0.1.8", "0.1.9"]


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_rm_refuses_while_a_job_runs(rig: SshRig) -> None:
    """`host rm` changes nothing while a job runs; --force kills it; the records stay."""
    _add(rig)
    job = rig.server.cli("submit", "--", "sleep", "600", check=True).stdout.strip()
    wait_until(lambda: rig.server.show(job)["state"] == "running", what="the job runs")

    refused = _host(rig, "rm", "gpu1")

    assert refused.returncode == 1
    assert f"1 job on gpu1 not over yet ({job}); stop them first" in refused.stderr
    assert rig.server.show(job)["state"] == "running"
    forced = _host(rig, "rm", "--force", "gpu1")
    assert forced.returncode == 0, forced.stderr
    assert not _root(rig).exists()
    assert rig.server.processes() == {}
    assert Path(rig.server.state_dir, "jobs", job).exists()
    assert _book(rig) == {}


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_purge_removes_the_data(rig: SshRig) -> None:
    """`host rm --purge` leaves nothing of the agent on the server, and no master here."""
    _add(rig)
    rig.server.cli("run", "--", "true", check=True)

    done = _host(rig, "rm", "--purge", "gpu1")

    assert done.returncode == 0, done.stderr
    assert not _root(rig).exists()
    assert not Path(rig.server.state_dir).exists()
    assert rig.server.processes() == {}
    assert rig.master_pids() == set()


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_rm_of_unreachable_host_needs_force(rig: SshRig) -> None:
    """A host that cannot be reached is forgotten only with --force, and it is said."""
    rig.know()
    rig.sshd.stop()

    refused = _host(rig, "rm", "gpu1")
    forced = _host(rig, "rm", "--force", "gpu1")

    assert refused.returncode in (69, 75)
    assert forced.returncode == 0
    assert "gpu1 is forgotten here; the server was not cleared: " in forced.stderr
    assert _book(rig) == {}


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_installation_is_shared_by_nodes_of_one_home(rig: SshRig) -> None:
    """`host rm` leaves the installation to another machine with the same home."""
    _add(rig)
    mine = _agent_is_from(rig)
    (_root(rig) / "nodes/another-node").write_text(f"{mine}\n", encoding="utf-8")

    done = _host(rig, "rm", "gpu1")

    assert done.returncode == 0, done.stderr
    assert _installations(_root(rig)) == [mine]
    assert [path.name for path in (_root(rig) / "nodes").iterdir()] == ["another-node"]


@pytest.mark.parametrize("rig", [_BARE], indirect=True)
def test_ls_shows_who_answers(rig: SshRig) -> None:
    """A host that answers is up; once it is away, it is shown as it was last seen."""
    _add(rig)
    rig.server.cli("submit", "--", "sleep", "600", check=True)
    wait_until(lambda: _ls(rig)["state"] == "up", deadline_s=20, what="the host answers in time")
    up = _ls(rig)

    rig.sshd.stop()
    rig.signal_ssh(signal.SIGKILL)
    away = _ls(rig)

    assert (up["version"], up["jobs"], up["destination"]) == (__version__, 1, "gpu1")
    assert (away["state"], away["jobs"], away["version"]) == ("away", 1, __version__)
    assert away["last_seen_at"] is not None


def _ls(rig: SshRig) -> dict[str, object]:
    rows: list[dict[str, object]] = json.loads(_host(rig, "ls", "--json").stdout)
    assert [row["name"] for row in rows] == ["gpu1"]
    return rows[0]


def test_name_is_kept_for_one_destination(rig: SshRig) -> None:
    """`host add` does not bend a name that is another server's already."""
    rig.know()

    done = _host(rig, "add", "gpu1", "me@elsewhere")

    assert done.returncode == 1
    assert "gpu1 is gpu1 already; take another name" in done.stderr
