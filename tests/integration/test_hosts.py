"""`agentctl host`: a bare server is made ready over a real sshd, upgraded, and left clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from agentctl import __version__
from tests.helpers.hosts import (
    BARE,
    BASH,
    MOVABLE,
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
    move_data_home,
    root_of,
    write_program,
)
from tests.helpers.mounts import set_read_only, tmpfs
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant
from tests.helpers.wait import wait_until


@pytest.mark.parametrize(
    "rig",
    [
        pytest.param(BARE, id="plain"),
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
    done = host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"gpu1 is ready: agent {__version__} installed\n"
    assert book(rig)["gpu1"]["agentd"] == str(root_of(rig) / "bin/agentd")
    assert [agent_is_from(rig)] == installations(root_of(rig))
    assert halves(root_of(rig)) == []


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_job_runs_on_added_host(rig: SshRig) -> None:
    """The first command after `host add` works."""
    add(rig)

    done = rig.client.cli("-H", "gpu1", "run", "--", "echo", "from afar", timeout=60)

    assert (done.returncode, done.stdout) == (0, "from afar\n"), done.stderr


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_add_again_uses_what_is_there(rig: SshRig) -> None:
    """A second `host add` installs nothing and leaves the running agent alone."""
    add(rig)
    pid = rig.server.warden_pid()

    done = host(rig, "add", "--offline", "gpu1")

    assert done.stdout == f"gpu1 is ready: agent {__version__} was there already\n"
    assert rig.server.warden_pid() == pid


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_add_rebuilds_damaged_installation(rig: SshRig) -> None:
    """An installation of which a file was emptied (a power cut) is built anew."""
    add(rig)
    victim = next(root_of(rig).glob("*/lib/*/site-packages/agentd/app.py"))
    victim.write_bytes(b"")

    done = host(rig, "add", "--offline", "gpu1")

    assert "installed" in done.stdout, done.stderr
    assert victim.stat().st_size > 0
    assert halves(root_of(rig)) == []


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_two_adds_at_once_install_once(rig: SshRig) -> None:
    """Of two `host add` at once both succeed, and one installation comes of it."""
    words = ("host", "add", "--offline", "gpu1")
    both = [rig.client.popen(*words, stdout=subprocess.PIPE) for _ in range(2)]

    said = sorted(process.communicate(timeout=120)[0].decode() for process in both)

    assert [process.returncode for process in both] == [0, 0]
    ready = f"gpu1 is ready: agent {__version__}"
    assert said == [f"{ready} installed\n", f"{ready} was there already\n"]
    assert len(installations(root_of(rig))) == 1


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_interrupted_add_leaves_nothing(rig: SshRig) -> None:
    """Ctrl-C in the middle removes what was there of it, and the host is not in the book."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.DEVNULL)
    wait_until(lambda: list(root_of(rig).glob(".new-*")), deadline_s=60, what="half of it")

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    wait_until(lambda: not root_of(rig).exists(), what="nothing left on the server")
    assert book(rig) == {}


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_killed_add_is_made_good_by_the_next(rig: SshRig) -> None:
    """What a SIGKILL on the server left half is swept by running the same command again."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.PIPE)
    wait_until(lambda: list(root_of(rig).glob(".new-*")), deadline_s=60, what="half of it")
    rig.server.kill(*installers(rig))

    complaint = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 75
    assert "run the same command again" in complaint
    assert halves(root_of(rig)) != []
    add(rig)
    assert halves(root_of(rig)) == []


@pytest.mark.parametrize(
    "step", [".new-*/lib/*/site-packages/grpc", "*/install.json", "bin/agentd", "nodes/*"]
)
@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_one_command_recovers_from_a_kill_at_any_step(rig: SshRig, step: str) -> None:
    """Wherever installer and client die, `host add` makes the host ready."""
    process = rig.client.popen("host", "add", "--offline", "gpu1", stderr=subprocess.DEVNULL)
    wait_until(lambda: list(root_of(rig).glob(step)), deadline_s=60, what=step)

    for pid in (*installers(rig), process.pid):
        os.kill(pid, signal.SIGKILL)

    process.wait(30)
    add(rig)
    assert [agent_is_from(rig)] == installations(root_of(rig))
    assert halves(root_of(rig)) == []


@pytest.mark.parametrize("rig", [BASH], indirect=True)
def test_server_without_python_is_told_so(rig: SshRig) -> None:
    """One line says what is missing and what to do."""
    hide_programs(rig)

    done = host(rig, "add", "gpu1")

    assert done.returncode == 1
    assert done.stderr == (
        "agentctl: gpu1 has no Python 3.11 or newer; install one there, or uv, or name one: "
        "agentctl host add gpu1 --python /path/to/python3\n"
    )
    assert not root_of(rig).exists()


@pytest.mark.parametrize("rig", [BASH], indirect=True)
def test_old_python_is_named(rig: SshRig) -> None:
    """A Python that is too old is named with its version."""
    tools = hide_programs(rig)
    write_program(tools / "python3", '[ "$1" = --version ] && echo Python 3.9.2; exit 1')

    done = host(rig, "add", "gpu1")

    assert f"(found {tools}/python3 Python 3.9.2)" in done.stderr


def test_named_python_must_be_one(rig: SshRig) -> None:
    """--python with a path that is no Python there is refused with that path."""
    done = host(rig, "add", "--python", "/no/such/python3", "gpu1")

    assert done.returncode == 1
    assert "/no/such/python3 on gpu1 is no Python 3.11 or newer" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("rig", [MOVABLE], indirect=True)
def test_full_disk_is_named_and_nothing_left(rig: SshRig) -> None:
    """No room on the server: one line says so, and the partial directory is removed."""
    data = move_data_home(rig)

    with tmpfs(str(data), 8 << 20):
        done = host(rig, "add", "--offline", "gpu1")

        assert done.returncode == 1
        assert "no room on gpu1: " in done.stderr
        assert "No space left on device; nothing was left behind" in done.stderr
        assert list(data.iterdir()) == []
    assert book(rig) == {}


@pytest.mark.root
@pytest.mark.parametrize("rig", [MOVABLE], indirect=True)
def test_read_only_home_is_named(rig: SshRig) -> None:
    """A home that cannot be written is named as that."""
    data = move_data_home(rig)

    with tmpfs(str(data), 1 << 20):
        set_read_only(str(data), True)
        done = host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 1
    assert f"cannot write on gpu1: {data}/agentd: Read-only file system" in done.stderr


@pytest.mark.parametrize("rig", [MOVABLE], indirect=True)
def test_directory_open_to_others_is_refused(rig: SshRig) -> None:
    """Where others could put a program, none is installed."""
    data = move_data_home(rig)
    (data / "agentd").mkdir()
    (data / "agentd").chmod(0o777)

    done = host(rig, "add", "--offline", "gpu1")

    assert done.returncode == 1
    assert f"run there: chmod 700 {data}/agentd" in done.stderr


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_upgrade_leaves_running_job_alone(rig: SshRig) -> None:
    """A job that runs over `host upgrade` keeps its processes, its output and its status."""
    add(rig)
    job = rig.server.cli("submit", "-c", TICKING, check=True).stdout.strip()
    wait_until(lambda: b"tick" in rig.server.cli_bytes("logs", job), what="the job's output")
    before = (rig.server.show(job)["pid"], rig.server.show(job)["shim_pid"])

    done = OtherClient(rig, "0.1.9").run("host", "upgrade", "--offline", "gpu1")

    assert done.stdout == "gpu1 is ready: agent 0.1.9 installed, 1 running job went on\n", done
    assert agent_is_from(rig).startswith("0.1.9-")
    assert len(installations(root_of(rig))) == 2
    assert (rig.server.show(job)["pid"], rig.server.show(job)["shim_pid"]) == before
    Path(rig.server.home, "go").touch()
    assert rig.server.cli("wait", job).returncode == 7
    lines = rig.server.cli_bytes("logs", job).splitlines()
    assert (lines[0], lines[-1]) == (b"begun", b"ended by itself")
    assert set(lines[1:-1]) == {b"tick"}
    assert book(rig)["gpu1"]["version"] == "0.1.9"


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_upgrade_that_fails_is_taken_back(rig: SshRig) -> None:
    """A new version that does not start is removed; the old agent runs again, the job too."""
    add(rig)
    old = agent_is_from(rig)
    job = rig.server.cli("submit", "-c", TICKING, check=True).stdout.strip()
    other = OtherClient(rig, "0.1.9")
    other.edit("agentd/app.py", "import argparse", "raise SystemExit('agentd: spoilt')")

    done = other.run("host", "upgrade", "--offline", "gpu1")

    assert done.returncode == 69
    expected = f"agentctl: the agent on gpu1 does not start: agentd: spoilt; {old} is back"
    assert done.stderr.startswith(expected)
    wait_until(rig.server.warden_pid, what="the old agent")
    assert agent_is_from(rig) == old
    assert installations(root_of(rig)) == [old]
    assert book(rig)["gpu1"]["version"] == __version__
    assert rig.server.show(job)["state"] == "running"


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_third_version_removes_the_first(rig: SshRig) -> None:
    """The version before the present one is kept, older ones that nobody runs are not."""
    add(rig)
    for version in ("0.1.8", "0.1.9"):
        done = OtherClient(rig, version).run("host", "upgrade", "--offline", "--all")
        assert done.returncode == 0, done.stderr

    kept = [name.partition("-")[0] for name in installations(root_of(rig))]
    assert kept == ["0.1.8", "0.1.9"]


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_rm_refuses_while_a_job_runs(rig: SshRig) -> None:
    """`host rm` changes nothing while a job runs; --force kills it; the records stay."""
    add(rig)
    job = rig.server.cli("submit", "--", "sleep", "600", check=True).stdout.strip()
    wait_until(lambda: rig.server.show(job)["state"] == "running", what="the job runs")

    refused = host(rig, "rm", "gpu1")

    assert refused.returncode == 1
    assert f"1 job on gpu1 not over ({job}); stop what runs" in refused.stderr
    assert rig.server.show(job)["state"] == "running"
    forced = host(rig, "rm", "--force", "gpu1")
    assert forced.returncode == 0, forced.stderr
    assert not root_of(rig).exists()
    assert rig.server.processes() == {}
    assert Path(rig.server.state_dir, "jobs", job).exists()
    assert book(rig) == {}


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_purge_removes_the_data(rig: SshRig) -> None:
    """`host rm --purge` leaves nothing of the agent on the server, and no master here."""
    add(rig)
    rig.server.cli("run", "--", "true", check=True)

    done = host(rig, "rm", "--purge", "gpu1")

    assert done.returncode == 0, done.stderr
    assert not root_of(rig).exists()
    assert not Path(rig.server.state_dir).exists()
    assert rig.server.processes() == {}
    assert rig.master_pids() == set()


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_rm_of_unreachable_host_needs_force(rig: SshRig) -> None:
    """A host that cannot be reached is forgotten only with --force, and it is said."""
    rig.know()
    rig.sshd.stop()

    refused = host(rig, "rm", "gpu1")
    forced = host(rig, "rm", "--force", "gpu1")

    assert refused.returncode in (69, 75)
    assert forced.returncode == 0
    assert "gpu1 is forgotten here; the server was not cleared: " in forced.stderr
    assert book(rig) == {}


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_installation_is_shared_by_nodes_of_one_home(rig: SshRig) -> None:
    """`host rm` leaves the installation to another machine with the same home."""
    add(rig)
    mine = agent_is_from(rig)
    (root_of(rig) / "nodes/another-node").write_text(f"{mine}\n", encoding="utf-8")

    done = host(rig, "rm", "gpu1")

    assert done.returncode == 0, done.stderr
    assert installations(root_of(rig)) == [mine]
    assert [path.name for path in (root_of(rig) / "nodes").iterdir()] == ["another-node"]


@pytest.mark.parametrize("rig", [BARE], indirect=True)
def test_ls_shows_who_answers(rig: SshRig) -> None:
    """A host that answers is up; once it is away, it is shown as it was last seen."""
    add(rig)
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
    rows: list[dict[str, object]] = json.loads(host(rig, "ls", "--json").stdout)
    assert [row["name"] for row in rows] == ["gpu1"]
    return rows[0]


def test_name_is_kept_for_one_destination(rig: SshRig) -> None:
    """`host add` does not bend a name that is another server's already."""
    rig.know()

    done = host(rig, "add", "gpu1", "me@elsewhere")

    assert done.returncode == 1
    assert "gpu1 is set up already, with the destination gpu1; take another name" in done.stderr
