"""Files kept open as long as there is room."""

from __future__ import annotations

import os
import resource

import pytest

from agentd.system.memory.kept import Descriptors, KeptFile
from tests.helpers.descriptors import held
from tests.unit.agentd.system.memory.rigs import fresh, lay_out


@fresh
def test_no_more_than_the_limit_are_kept_and_all_can_be_read(tmp_path: object) -> None:
    """The others are opened for each look."""
    before = held()
    path = lay_out(str(tmp_path), {str(index): str(index) for index in range(5)})
    room = Descriptors(limit=3)
    files = [KeptFile(f"{path}/{index}", room) for index in range(5)]
    for _ in range(2):
        assert [file.read() for file in files] == [b"0", b"1", b"2", b"3", b"4"]
        assert [file.is_open for file in files] == [True] * 3 + [False] * 2
    assert len(room) == 3
    files[0].close()
    assert files[4].read() == b"4"
    assert files[4].is_open
    for file in files:
        file.close()
    assert held() <= before


@fresh
def test_half_of_what_may_be_open_is_left_to_others(tmp_path: object) -> None:
    """RLIMIT_NOFILE is the whole process's."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    path = lay_out(str(tmp_path), {"x": "x"})
    room = Descriptors()
    for _ in range(60):
        assert KeptFile(f"{path}/x", room).read() == b"x"
    assert len(room) == 30


@fresh
def test_what_is_kept_stays_close_on_exec(tmp_path: object) -> None:
    """No job may inherit a look at another."""
    path = lay_out(str(tmp_path), {"x": "x"})
    file = KeptFile(f"{path}/x", Descriptors())
    file.read()
    assert not os.get_inheritable(file._descriptor)
    file.close()


def test_a_file_that_cannot_be_read_keeps_nothing(tmp_path: object) -> None:
    """A directory can be opened, and not read."""
    room = Descriptors()
    with pytest.raises(IsADirectoryError):
        KeptFile(str(tmp_path), room).read()
    with pytest.raises(FileNotFoundError):
        KeptFile(f"{tmp_path}/none", room).read()
    assert len(room) == 0
    assert not room.give_back()
