"""Which wheels run on which server."""

from __future__ import annotations

import pytest

from agentctl.hosts.target import Glibc, Musl, Target, is_plain_path, read_target

_DEBIAN = Target("/usr/bin/python3", (3, 11), "cp311", "x86_64", Glibc(36))
_ALPINE = Target("/usr/bin/python3", (3, 12), "cp312", "aarch64", Musl())
_FREE = Target("/usr/bin/python3", (3, 13), "cp313t", "x86_64", Glibc(36))
_TOLD = {
    "python": "/usr/bin/python3.11",
    "implementation": "cpython",
    "major": 3,
    "minor": 11,
    "soabi": "cpython-311-x86_64-linux-gnu",
    "host_type": "x86_64-pc-linux-gnu",
    "is_free_threaded": False,
    "platform": "linux-x86_64",
    "libc": "glibc",
    "libc_version": "2.36",
}


_RUNS = [
    (_DEBIAN, "py3-none-any"),
    (_DEBIAN, "py2.py3-none-any"),
    (_DEBIAN, "cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64"),
    (_DEBIAN, "cp39-abi3-manylinux2014_x86_64"),
    (_ALPINE, "cp312-cp312-musllinux_1_1_aarch64"),
    (_FREE, "cp313-cp313t-manylinux2014_x86_64"),
]
_DOES_NOT_RUN = [
    (_DEBIAN, "cp312-abi3-manylinux2014_x86_64"),
    (_DEBIAN, "cp310-cp310-manylinux2014_x86_64"),
    (_DEBIAN, "cp311-cp311-manylinux_2_39_x86_64"),
    (_DEBIAN, "cp311-cp311-manylinux2014_aarch64"),
    (_DEBIAN, "cp311-cp311-musllinux_1_2_x86_64"),
    (_DEBIAN, "cp311-cp311-linux_x86_64"),
    (_DEBIAN, "cp311-cp311-macosx_11_0_arm64"),
    (_ALPINE, "cp312-cp312-manylinux2014_aarch64"),
    (_FREE, "cp39-abi3-manylinux2014_x86_64"),
]


@pytest.mark.parametrize(("target", "tag"), _RUNS)
def test_a_wheel_runs_where_its_tag_says(target: Target, tag: str) -> None:
    """Python, ABI, machine and C library all fit."""
    assert target.takes(tag)


@pytest.mark.parametrize(("target", "tag"), _DOES_NOT_RUN)
def test_a_wheel_runs_nowhere_else(target: Target, tag: str) -> None:
    """One of them does not fit; a local build fits nowhere else."""
    assert not target.takes(tag)


def test_old_names_of_platforms_are_among_the_new_ones() -> None:
    """Pip is told every platform whose wheels run there, the newest first."""
    platforms = _DEBIAN.platforms

    assert platforms[0] == "manylinux_2_36_x86_64"
    assert {"manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"} <= set(platforms)


def test_what_a_server_tells_becomes_a_target() -> None:
    """As Debian's Python tells it."""
    assert read_target(_TOLD) == Target(
        "/usr/bin/python3.11", (3, 11), "cp311", "x86_64", Glibc(36)
    )


def test_alpine_is_recognised() -> None:
    """Musl tells no version; the platform of its Python names it."""
    told = _TOLD | {"libc": "", "libc_version": "", "soabi": "cpython-312-x86_64-linux-musl"}

    assert read_target(told).libc == Musl()
    assert read_target(told).tag == "cp311-musl_x86_64"


@pytest.mark.parametrize(
    "other",
    [
        {"implementation": "pypy"},
        {"platform": "macosx-14-arm64"},
        {"libc": "", "libc_version": ""},
        {"python": "/home/me/my python/bin/python3"},
        {"python": "/home/$(id)/python3"},
        {"minor": None},
    ],
)
def test_what_cannot_be_served_is_said(other: dict[str, object]) -> None:
    """Another implementation, another system, a path that a shell would take apart."""
    with pytest.raises(ValueError, match=r"."):
        read_target(_TOLD | other)


@pytest.mark.parametrize("path", ["python3", "/a b", "/a;b", "/a'b", "/a$b", "/ü", "", "/a\n"])
def test_paths_that_shells_act_on_are_not_plain(path: str) -> None:
    """Absolute, ASCII, and nothing special."""
    assert not is_plain_path(path)


@pytest.mark.parametrize(
    "other",
    [
        {"libc_version": "2.999999999999"},
        {"libc_version": "2.²"},
        {"platform": "linux-../../x"},
        {"platform": "linux-"},
        {"platform": f"linux-{'x' * 100}"},
        {"minor": 10**9},
        {"major": 4},
        {"minor": float("inf")},
    ],
)
def test_a_hostile_description_is_refused(other: dict[str, object]) -> None:
    """No endless list of platforms, no path that leads elsewhere."""
    with pytest.raises(ValueError, match=r"unknown"):
        read_target(_TOLD | other)
