"""The delegated cgroup: asked of a real bus, of a real systemd, and of some that do not help."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.core import contract
from agentd.errors import WardenGoneError
from agentd.server.runtime import backstop
from agentd.server.runtime.backstop import Absent, Backstop, Delegated, Places
from agentd.system import cgroups
from tests.helpers.wait import wait_until
from tests.unit.agentd.server.busman import Answer, Answers, manager, private_bus
from tests.unit.agentd.system.sandbox import isolated, sleeper

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_SYSTEMD = "/usr/lib/systemd/systemd"
#: It speaks over a bus that it has started itself.
_UNITS = {
    "basic.target": "[Unit]\nWants=dbus.socket\n",
    "dbus.socket": "[Socket]\nListenStream=%t/bus\n",
    "dbus.service": "[Unit]\nRequires=dbus.socket\n[Service]\nExecStart=/usr/bin/dbus-daemon "
    "--session --address=systemd: --nofork --nopidfile --systemd-activation --nosyslog\n",
}
OWN = "/user.slice/user@1000.service"


@pytest.fixture(name="places")
def _places(tmp_path: Path) -> Iterator[Places]:
    """Yield a bus of our own, lingering, and a host where memory is delegated, as it seems."""
    (tmp_path / f"cgroup{OWN}").mkdir(parents=True)
    for path in ("cgroup", f"cgroup{OWN}"):
        (tmp_path / path / "cgroup.controllers").write_text("memory pids\n", encoding="ascii")
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / pwd.getpwuid(os.geteuid()).pw_name).touch()
    with private_bus(str(tmp_path)) as bus:
        yield Places(f"{tmp_path}/cgroup", f"{tmp_path}/linger", bus)


def ask(places: Places, answers: Answers) -> tuple[Delegated | Absent, list[str]]:
    """Ask with a manager on the bus; return the answer and the methods that were called."""

    async def talk() -> tuple[Delegated | Absent, list[str]]:
        assert places.bus is not None
        async with manager(places.bus, answers) as came:
            return await backstop.delegate(os.getpid(), places), [method for method, _ in came]

    return asyncio.run(talk())


def willing(method: str, _body: tuple[Any, ...]) -> Answer:
    """Answer as systemd would; nothing is moved, though."""
    return {
        "Get": ("v", (("s", OWN),)),
        "StartTransientUnit": ("o", ("/org/freedesktop/systemd1/job/1",)),
        "AttachProcessesToUnit": ("", ()),
    }[method]


def why(found: Delegated | Absent) -> str:
    """Return why there is none."""
    assert isinstance(found, Absent), found
    assert "\n" not in found.why
    return found.why


def test_a_host_without_cgroup_v2(tmp_path: Path) -> None:
    """Nobody is asked."""
    found = asyncio.run(backstop.delegate(os.getpid(), Places(str(tmp_path), bus="unix:path=/no")))
    assert why(found) == "this host has no unified cgroup v2"


def test_a_host_without_a_user_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Places
) -> None:
    """No bus in the runtime directory, none in the environment, or one that is gone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{tmp_path}/cgroup")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    here = Places(places.cgroup_root, places.linger_dir)
    assert "no user bus" in why(asyncio.run(backstop.delegate(os.getpid(), here)))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/gone")
    assert "No such file" in why(asyncio.run(backstop.delegate(os.getpid(), here)))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "no address at all")
    assert why(asyncio.run(backstop.delegate(os.getpid(), here)))


def test_the_bus_of_the_runtime_directory_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Places
) -> None:
    """A desktop's own bus need not have systemd on it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/no/such/bus")
    here = Places(places.cgroup_root, places.linger_dir)
    assert "org.freedesktop.DBus.Error" in why(asyncio.run(backstop.delegate(os.getpid(), here)))


def test_a_bus_without_systemd(places: Places) -> None:
    """The bus says so."""
    found = asyncio.run(backstop.delegate(os.getpid(), places))
    assert why(found).startswith("the user's systemd refused: ")


def test_memory_that_is_not_delegated(places: Places) -> None:
    """As on a host booted with cgroup_disable=memory; nothing is begun."""
    Path(f"{places.cgroup_root}{OWN}/cgroup.controllers").write_text("pids\n", encoding="ascii")
    found, came = ask(places, willing)
    assert why(found) == "the memory controller is not delegated to the user's systemd"
    assert came == ["Get"]


def test_without_lingering_no_job_is_moved(places: Places) -> None:
    """It would be killed at the logout; where it is now it would not."""
    shutil.rmtree(places.linger_dir)
    found, came = ask(places, willing)
    assert "loginctl enable-linger" in why(found)
    assert came == ["Get"]


@pytest.mark.parametrize("refusing", ["Get", "StartTransientUnit", "AttachProcessesToUnit"])
def test_a_call_that_is_refused(places: Places, refusing: str) -> None:
    """What systemd said is passed on."""

    def answers(method: str, body: tuple[Any, ...]) -> Answer:
        name = "org.freedesktop.DBus.Error.AccessDenied"
        return name if method == refusing else willing(method, body)

    found, came = ask(places, answers)
    assert "because of a test (org.freedesktop.DBus.Error.AccessDenied)" in why(found)
    assert came[-1] == refusing


@pytest.mark.parametrize("silent", ["Get", "StartTransientUnit", "AttachProcessesToUnit"])
def test_a_call_that_is_not_answered(
    places: Places, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after a while."""
    monkeypatch.setattr(backstop, "DEADLINE_S", 0.5)
    begun_s = time.monotonic()
    found, _ = ask(places, lambda method, body: None if method == silent else willing(method, body))
    assert why(found) == "the user's systemd did not answer within 0.5 s"
    assert time.monotonic() - begun_s < 10


def test_a_bus_that_says_nothing(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a greeting."""
    monkeypatch.setattr(backstop, "DEADLINE_S", 0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/silent")
        listener.listen()
        mute = Places(places.cgroup_root, places.linger_dir, f"unix:path={tmp_path}/silent")
        found = asyncio.run(backstop.delegate(os.getpid(), mute))
    assert why(found) == "the user's systemd did not answer within 0.5 s"


def test_it_is_tried_until_the_unit_is_being_started(places: Places) -> None:
    """The manager answers first and begins then."""
    refusals = iter(["org.freedesktop.DBus.Error.InvalidArgs"] * 3)

    def answers(method: str, body: tuple[Any, ...]) -> Answer:
        return (
            next(refusals, ("", ())) if method == "AttachProcessesToUnit" else willing(method, body)
        )

    found, came = ask(places, answers)
    assert came.count("AttachProcessesToUnit") == 4
    assert why(found) == "the spawner was not moved into its unit", "this manager moves nobody"


def test_a_spawner_that_is_gone(places: Places) -> None:
    """There is nobody to be moved; the next one is."""

    async def talk() -> Delegated | Absent:
        assert places.bus is not None
        async with manager(places.bus, willing):
            return await backstop.delegate((1 << 22) + 1, places)

    assert why(asyncio.run(talk())) == "the spawner ended meanwhile"


class TestBackstop:
    """What the server makes of it."""

    @pytest.fixture(name="sent")
    def _sent(self, monkeypatch: pytest.MonkeyPatch) -> list[contract.Message]:
        """Return what the warden is told, with a delegation that works."""

        async def delegated(spawner_pid: int, _places: Places | None = None) -> Delegated:
            return Delegated(f"/cg/{spawner_pid}")

        monkeypatch.setattr(backstop, "delegate", delegated)
        return []

    def test_the_warden_is_told(self, sent: list[contract.Message]) -> None:
        """The path, and whom it holds; again for the next spawner."""

        async def serve() -> None:
            ours = Backstop(sent.append)
            assert ours.layer.startswith("no kernel backstop yet: ")
            await ours.install(42)
            await ours.install_later(43)
            assert ours.found == Delegated("/cg/43")
            assert ours.layer == "kernel backstop: each job in a cgroup of its own below /cg/43"
            ours.close()

        asyncio.run(serve())
        assert sent == [contract.UseCgroup("/cg/42", 42), contract.UseCgroup("/cg/43", 43)]

    def test_a_slow_systemd_keeps_no_server_waiting(
        self, sent: list[contract.Message], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It begins to serve, and the warden is told when systemd is ready."""
        ready = asyncio.Event()

        async def slow(spawner_pid: int, _places: Places | None = None) -> Delegated:
            await ready.wait()
            return Delegated(f"/cg/{spawner_pid}")

        async def serve() -> None:
            ours = Backstop(sent.append)
            await ours.install(42)
            assert (sent, ours.found) == ([], None)
            ready.set()
            assert ours._installing is not None
            await ours._installing

        monkeypatch.setattr(backstop, "delegate", slow)
        monkeypatch.setattr(backstop, "PATIENCE_S", 0.05)
        asyncio.run(serve())
        assert sent == [contract.UseCgroup("/cg/42", 42)]

    def test_a_server_that_ends_gives_up(
        self, sent: list[contract.Message], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is left under way."""

        async def never(_spawner_pid: int, _places: Places | None = None) -> Delegated:
            await asyncio.Event().wait()
            raise AssertionError

        async def serve() -> None:
            ours = Backstop(sent.append)
            installing = ours.install_later(42)
            await asyncio.sleep(0)
            ours.close()
            await asyncio.wait({installing})
            assert installing.cancelled()

        monkeypatch.setattr(backstop, "delegate", never)
        asyncio.run(serve())
        assert sent == []

    def test_what_is_in_use_is_not_asked_for_again(self, sent: list[contract.Message]) -> None:
        """Another server finds it as it is; and without a spawner there is nothing to do."""
        ours = Backstop(sent.append)
        asyncio.run(ours.install(42, "/cg/old"))
        assert (sent, ours.found) == ([], Delegated("/cg/old"))
        asyncio.run(Backstop(sent.append).install(0))
        assert sent == []

    def test_a_warden_that_is_gone_is_no_error(self, sent: list[contract.Message]) -> None:
        """The next one comes with a server of its own."""

        def send(_message: contract.Message) -> None:
            raise WardenGoneError("gone")

        ours = Backstop(send)
        asyncio.run(ours.install(42))
        assert ours.found is None


@contextmanager
def real_systemd(home: Path) -> Iterator[str]:
    """Yield the cgroup of a real user manager; the mounts made for it are this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0
    assert libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    assert libc.mount(b"none", b"/run", b"tmpfs", 0, None) == 0
    # By this it sees that the host was booted with systemd (sd_booted(3)).
    os.makedirs("/run/systemd/system")
    assert libc.mount(b"none", cgroups.ROOT.encode(), b"cgroup2", 0, None) == 0
    own = f"/agent-test-{secrets.token_hex(4)}"
    os.mkdir(cgroups.ROOT + own)
    Path(f"{cgroups.ROOT}{own}/cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    systemd = _start_systemd(home)
    try:
        yield own
    finally:
        Path(f"{cgroups.ROOT}/cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        # systemd and the bus it has started.
        Path(f"{cgroups.ROOT}{own}/cgroup.kill").write_text("1", encoding="ascii")
        systemd.wait()
        wait_until(lambda: cgroups.remove(cgroups.ROOT + own), what="its cgroup has gone")


def _start_systemd(home: Path) -> subprocess.Popen[bytes]:
    units = home / "units"
    units.mkdir()
    for name, text in _UNITS.items():
        (units / name).write_text(text, encoding="ascii")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={home}/bus",
        "SYSTEMD_UNIT_PATH": str(units),
        "SYSTEMD_LOG_TARGET": "null",
    }
    command = [_SYSTEMD, "--user", "--unit=basic.target"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.root
@isolated
def test_a_real_systemd_delegates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spawner is in a unit that lives as long as anybody is in it, and goes with the last.

    Without the memory controller, which cgroup v1 may hold here: the machine with 1 GB has it.
    """
    monkeypatch.setattr(backstop, "WANTED", ())
    places = Places(linger_dir="/nowhere", bus=f"unix:path={tmp_path}/bus")
    with real_systemd(tmp_path) as own:
        spawner = sleeper()
        found = wait_until(lambda: _delegated(spawner, places), what="systemd answers")
        assert isinstance(found, Delegated)

        unit = os.path.basename(found.path)
        assert cgroups.of_process(spawner) == f"{own}/app.slice/{unit}/agent"
        os.mkdir(f"{found.path}/job-7")
        job = sleeper()
        Path(f"{found.path}/job-7/cgroup.procs").write_text(str(job), encoding="ascii")
        _end(spawner)
        # Its own command is over by then: the job alone holds it open.
        agent = Path(found.path, "agent", "cgroup.procs")
        wait_until(
            lambda: not agent.read_text(encoding="ascii"),
            deadline_s=20,
            what="nobody but the job",
        )
        assert cgroups.of_process(job) == f"{own}/app.slice/{unit}/job-7"
        _end(job)
        wait_until(lambda: not os.path.exists(found.path), what="the unit has gone")


def _delegated(spawner: int, places: Places) -> Delegated | None:
    found = asyncio.run(backstop.delegate(spawner, places))
    return found if isinstance(found, Delegated) else None


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
