"""Markers in live/: cheap where links are possible, there in any case."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agentd.server.runtime.markers import make_marker, remove_marker
from tests.unit.agentd.server.places import make_paths


def _live(paths_live: str) -> list[str]:
    return sorted(os.listdir(paths_live))


def test_all_markers_are_one_file(tmp_path: Path) -> None:
    """From the second job on no inode is made for a marker."""
    paths = make_paths(tmp_path)
    for job_id in (1, 2, 3):
        make_marker(paths, job_id)

    assert _live(paths.live) == ["1", "2", "3"]
    assert os.stat(f"{paths.live}/2").st_ino == os.stat(f"{paths.live}/3").st_ino


def test_a_marker_that_is_there_already_stays(tmp_path: Path) -> None:
    """A marker is made as often as somebody likes."""
    paths = make_paths(tmp_path)
    for _ in range(3):
        make_marker(paths, 7)

    assert _live(paths.live) == ["7"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK])
def test_without_links_a_marker_is_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file system without hard links, or with too many of them, costs no job."""
    paths = make_paths(tmp_path)

    def refuse(*_arguments: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    make_marker(paths, 1)
    make_marker(paths, 2)

    assert _live(paths.live) == ["1", "2"]


def test_removing_one_marker_leaves_the_others(tmp_path: Path) -> None:
    """Links are apart although the file is one; what is gone already is no error."""
    paths = make_paths(tmp_path)
    for job_id in (1, 2, 3):
        make_marker(paths, job_id)
    remove_marker(paths, 2)
    remove_marker(paths, 2)

    assert _live(paths.live) == ["1", "3"]
