"""Where the agent keeps its things, and what it refuses to use."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import UnsafeDirectoryError
from agentd.paths import MAX_SOCKET_PATH_BYTES, Paths, default_paths, prepare

HOST = socket.gethostname()
HOME = {"HOME": "/home/ada"}
XDG = {"XDG_STATE_HOME": "/xs", "XDG_CONFIG_HOME": "/xc", "XDG_RUNTIME_DIR": "/run/user/7"}
OVERRIDES = {
    "AGENTD_STATE_DIR": "/s",
    "AGENTD_RUNTIME_DIR": "/r",
    "AGENTCTL_CONFIG": "/c.toml",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            HOME,
            Paths(
                f"/home/ada/.local/state/agentd/{HOST}",
                f"/tmp/agentd-{os.getuid()}",
                "/home/ada/.config/agentctl/config.toml",
            ),
        ),
        (
            {**HOME, **XDG},
            Paths(f"/xs/agentd/{HOST}", "/run/user/7/agentd", "/xc/agentctl/config.toml"),
        ),
        ({**HOME, **XDG, **OVERRIDES}, Paths("/s", "/r", "/c.toml")),
        (
            {**HOME, **dict.fromkeys([*XDG, *OVERRIDES], "")},
            default_paths(HOME),
        ),
    ],
    ids=["plain", "xdg", "overridden", "empty variables"],
)
def test_the_places_follow_the_environment(environ: dict[str, str], expected: Paths) -> None:
    """State is keyed by the host, as a home may be shared; an empty variable counts as none."""
    assert default_paths(environ) == expected


def test_without_a_home_the_password_database_knows_one() -> None:
    """As under cron."""
    assert default_paths({}).state_dir.startswith(f"{os.path.expanduser('~')}/")


def test_each_thing_has_its_place() -> None:
    """State below the one directory, the socket below the other."""
    paths = Paths("/s", "/r", "/c.toml")

    assert (paths.jobs, paths.job(7), paths.live) == ("/s/jobs", "/s/jobs/7", "/s/live")
    assert (paths.database, paths.last_id, paths.pidfile) == (
        "/s/jobs.db",
        "/s/last-id",
        "/s/agent.pid",
    )
    assert (paths.log_dir, paths.socket) == ("/s/log", "/r/agent.sock")


def places(directory: Path) -> Paths:
    """Return the places of an agent below `directory`, not made yet."""
    return Paths(f"{directory}/deep/state", f"{directory}/run", f"{directory}/config.toml")


def test_every_directory_is_made_private(tmp_path: Path) -> None:
    """Asked again, all stays as it is."""
    paths = places(tmp_path)

    for _ in range(2):
        prepare(paths)

        for path in (paths.state_dir, paths.runtime_dir, paths.jobs, paths.live, paths.log_dir):
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o700


def link(path: str) -> None:
    """Lead elsewhere."""
    os.symlink("/", path)


def open_to_others(path: str) -> None:
    """Be a directory that others may enter."""
    os.mkdir(path)
    Path(path).chmod(0o710)


def be_a_file(path: str) -> None:
    """Be no directory."""
    Path(path).touch()


@pytest.mark.parametrize("spoil", [link, open_to_others, be_a_file])
@pytest.mark.parametrize("place", ["state_dir", "runtime_dir", "jobs", "live", "log_dir"])
def test_a_place_that_is_not_ours_alone_is_refused(
    tmp_path: Path, place: str, spoil: Callable[[str], None]
) -> None:
    """Each of them, and the line names it."""
    paths = places(tmp_path)
    path: str = getattr(paths, place)
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    spoil(path)

    with pytest.raises(UnsafeDirectoryError, match=path):
        prepare(paths)


@pytest.mark.parametrize("place", ["state_dir", "runtime_dir", "config_file"])
@pytest.mark.parametrize("path", ["relative", "./relative", "../x"])
def test_a_relative_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, path: str
) -> None:
    """The agent works in / while its clients work elsewhere: they would not find each other."""
    monkeypatch.chdir(tmp_path)
    proper = places(tmp_path / "home")
    named = {name: getattr(proper, name) for name in Paths.__slots__}
    paths = Paths(**{**named, place: path})

    with pytest.raises(UnsafeDirectoryError, match="absolute path"):
        prepare(paths)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("letter", "fits"), [("d", True), ("é", False)])
def test_a_socket_path_is_measured_in_bytes(tmp_path: Path, letter: str, *, fits: bool) -> None:
    """The kernel counts bytes; the line says what to do, and nothing was made."""
    room = MAX_SOCKET_PATH_BYTES - len(f"{tmp_path}//agent.sock")
    paths = Paths(f"{tmp_path}/state", f"{tmp_path}/{letter * room}", "/c.toml")

    if fits:
        prepare(paths)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(paths.socket)
        return
    with pytest.raises(UnsafeDirectoryError, match="AGENTD_RUNTIME_DIR"):
        prepare(paths)
    assert os.listdir(tmp_path) == []
