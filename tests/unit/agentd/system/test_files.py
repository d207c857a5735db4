"""Private, durable, atomic files, on real file systems."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from agentd.errors import DiskFullError, SystemCallError, UnsafeDirectoryError
from agentd.system import files
from tests.unit.agentd.system.sandbox import fill, isolated, mount_tmpfs

OLD = b"old" * 1000


def test_a_private_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    """Nobody else may enter it, whatever the umask."""
    wanted = tmp_path / "a" / "b" / "c"
    before = os.umask(0)
    try:
        files.ensure_private_directory(str(wanted))
    finally:
        os.umask(before)

    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700


def test_our_own_private_directory_is_accepted_as_it_is(tmp_path: Path) -> None:
    """Asked at every start, and nothing in it is touched."""
    wanted = tmp_path / "mine"
    wanted.mkdir(0o700)
    (wanted / "kept").touch()

    files.ensure_private_directory(str(wanted))

    assert os.listdir(wanted) == ["kept"]


def test_a_symlink_is_no_private_directory(tmp_path: Path) -> None:
    """Not even one that leads to our own private directory: it may lead elsewhere next time."""
    (tmp_path / "mine").mkdir(0o700)
    (tmp_path / "link").symlink_to("mine")

    with pytest.raises(UnsafeDirectoryError, match="symlink"):
        files.ensure_private_directory(f"{tmp_path}/link")


def test_a_dangling_symlink_is_refused_and_not_followed(tmp_path: Path) -> None:
    """Nothing is made where it points to."""
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(UnsafeDirectoryError):
        files.ensure_private_directory(f"{tmp_path}/link")

    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("kind", ["file", "socket", "fifo"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    """With a line that says so."""
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))

    with pytest.raises(UnsafeDirectoryError, match="not a directory"):
        files.ensure_private_directory(str(path))


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o740, 0o704, 0o755, 0o1777])
def test_a_directory_open_to_others_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    """Any right for group or others is one too many."""
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)

    with pytest.raises(UnsafeDirectoryError, match=f"chmod 700 {path}"):
        files.ensure_private_directory(str(path))


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """The line names the owner."""
    path = tmp_path / "foreign"
    path.mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        path = Path("/proc/1")

    with pytest.raises(UnsafeDirectoryError, match=f"belongs to uid {path.stat().st_uid}"):
        files.ensure_private_directory(str(path))


def test_a_directory_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    """The kernel's refusal is told with action and path."""
    (tmp_path / "file").touch()

    with pytest.raises(SystemCallError, match=f"make the directory {tmp_path}/file/below"):
        files.ensure_private_directory(f"{tmp_path}/file/below")


@pytest.mark.root
@isolated
def test_no_room_for_a_directory_is_a_full_disk(tmp_path: Path) -> None:
    """So that the user learns what to do about it."""
    mount_tmpfs(str(tmp_path), "size=64k,nr_inodes=1,mode=700")

    with pytest.raises(DiskFullError, match="free some space"):
        files.ensure_private_directory(f"{tmp_path}/more")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, SystemCallError),
        (errno.EIO, SystemCallError),
        (errno.EROFS, SystemCallError),
    ],
)
def test_no_space_and_no_quota_are_a_full_disk_and_nothing_else_is(
    number: int, kind: type[Exception]
) -> None:
    """The action stands in the message of either."""
    error = files.system_error("open the drawer", OSError(number, os.strerror(number)))

    assert type(error) is kind
    assert "cannot open the drawer" in str(error)


def test_a_durable_write_replaces_the_file_and_keeps_it_private(tmp_path: Path) -> None:
    """Mode 0600 whatever it was before; no scratch file stays behind."""
    path = tmp_path / "x"
    path.write_bytes(OLD)
    path.chmod(0o644)

    files.write_durable(str(path), b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x"]


def test_a_reader_of_the_old_file_goes_on_reading_the_old_file(tmp_path: Path) -> None:
    """It is replaced, not overwritten: nobody ever sees half of each."""
    path = tmp_path / "x"
    path.write_bytes(OLD)

    with open(path, "rb") as reader:
        files.write_durable(str(path), b"new")

        assert reader.read() == OLD


def test_a_long_scratch_file_of_a_killed_writer_does_no_harm(tmp_path: Path) -> None:
    """Nothing of it ends up in the new content."""
    (tmp_path / "x.tmp").write_bytes(b"torn" * 100)

    files.write_durable(f"{tmp_path}/x", b"new")

    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_durable_write_follows_no_symlink(tmp_path: Path) -> None:
    """One in the place of the scratch file is an error, and its target stays as it was."""
    target = tmp_path / "target"
    target.write_bytes(OLD)
    (tmp_path / "x.tmp").symlink_to(target)

    with pytest.raises(OSError, match="symbolic"):
        files.write_durable(f"{tmp_path}/x", b"new")

    assert target.read_bytes() == OLD


@pytest.mark.root
@isolated
def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """A failed write changes nothing, and the next one succeeds once there is room."""
    mount_tmpfs(str(tmp_path), "size=256k,mode=700")
    path, ballast = tmp_path / "x", tmp_path / "ballast"
    path.write_bytes(OLD)
    fill(str(ballast))

    with pytest.raises(OSError, match="No space"):
        files.write_durable(str(path), b"n" * 9000)

    assert path.read_bytes() == OLD
    ballast.unlink()
    files.write_durable(str(path), b"n" * 9000)
    assert path.read_bytes() == b"n" * 9000


def test_every_byte_is_written_however_little_the_other_side_takes_at_once() -> None:
    """A pipe takes 64 kB at a time."""
    read_end, write_end = os.pipe()
    data = os.urandom(1 << 20)
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(read_end, "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    files.write_all(write_end, data)
    os.close(write_end)
    reader.join()

    assert got == [data]


@isolated
def test_every_descriptor_but_those_wanted_is_closed() -> None:
    """The standard three stay; high numbers and sockets go."""
    kept, gone = os.pipe()
    high = os.dup2(gone, 777)
    pair = socket.socketpair()

    files.keep_only((kept,))

    still_open = set()
    for descriptor in (0, 1, 2, kept, gone, high, pair[0].fileno(), pair[1].fileno()):
        try:
            os.fstat(descriptor)
            still_open.add(descriptor)
        except OSError:
            continue
    assert still_open == {0, 1, 2, kept}
    assert {int(name) for name in os.listdir("/proc/self/fd")} >= {0, 1, 2, kept}
