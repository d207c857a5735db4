"""The client's runtime directory, and what is refused as one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl.errors import UnsafeDirectoryError
from agentctl.link.private import runtime_dir, runtime_path

_OTHER_UID = 65534


@pytest.fixture(name="base")
def _base() -> Iterator[Path]:
    """Yield a directory with a short path, as /run/user/1000 has."""
    with tempfile.TemporaryDirectory(prefix="ac-", dir="/tmp") as root:
        yield Path(root)


def test_it_is_made_for_us_alone(base: Path) -> None:
    """Mode 0700, whatever the umask."""
    umask = os.umask(0)
    try:
        made = runtime_dir({"XDG_RUNTIME_DIR": str(base)})
    finally:
        os.umask(umask)

    assert made == f"{base}/agentctl"
    assert Path(made).stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    "value", ["", "relative/path", "/" + "x" * 80, "/with blank", "/with%h", "/with${HOME}", "/a:b"]
)
def test_where_ssh_could_not_use_it_another_is_taken(value: str) -> None:
    """Too long, or with something that ssh replaces: then the one of /tmp."""
    assert runtime_path({"XDG_RUNTIME_DIR": value}) == f"/tmp/agentctl-{os.geteuid()}"


def test_one_open_to_others_is_refused(base: Path) -> None:
    """Whoever may write there could plant a socket."""
    (base / "agentctl").mkdir(mode=0o700)
    (base / "agentctl").chmod(0o750)

    with pytest.raises(UnsafeDirectoryError, match="chmod 700"):
        runtime_dir({"XDG_RUNTIME_DIR": str(base)})


def test_a_symlink_is_refused(base: Path) -> None:
    """Also one to a directory that would do: who made it can turn it."""
    (base / "real").mkdir(mode=0o700)
    (base / "agentctl").symlink_to(base / "real")

    with pytest.raises(UnsafeDirectoryError, match="symlink"):
        runtime_dir({"XDG_RUNTIME_DIR": str(base)})


@pytest.mark.root
def test_one_of_another_user_is_refused(base: Path) -> None:
    """In a sticky directory anybody may be faster with the name."""
    (base / "agentctl").mkdir(mode=0o700)
    os.chown(base / "agentctl", _OTHER_UID, _OTHER_UID)

    with pytest.raises(UnsafeDirectoryError, match="belongs to uid 65534"):
        runtime_dir({"XDG_RUNTIME_DIR": str(base)})


def test_a_base_that_is_missing_is_named(base: Path) -> None:
    """A session that ended took its directory along: the message says which."""
    with pytest.raises(UnsafeDirectoryError, match=r"gone/agentctl.*XDG_RUNTIME_DIR"):
        runtime_dir({"XDG_RUNTIME_DIR": f"{base}/gone"})
