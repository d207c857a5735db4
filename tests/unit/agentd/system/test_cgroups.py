"""Cgroups of jobs: what is written where, and what is read when the job is over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.system import cgroups
from agentd.system.cgroups import OomKills
from tests.helpers.cgroupfs import limited, mount_cgroup2, stand_in
from tests.unit.agentd.system.sandbox import fork, isolated, sleeper

EVENTS = "low 0\nhigh 0\nmax {max}\noom {oom}\noom_kill {oom_kill}\n"


def members(path: str) -> set[int]:
    """Return who is in a cgroup."""
    return set(map(int, Path(path, "cgroup.procs").read_text(encoding="ascii").split()))


@given(st.integers(1, 1 << 62))
def test_the_kernels_limit_is_a_little_above_the_jobs(limit_bytes: int) -> None:
    """Five percent, in whole pages."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    maximum_bytes = cgroups.maximum_bytes(limit_bytes)

    assert maximum_bytes % page_bytes == 0
    assert 0 <= maximum_bytes - limit_bytes - limit_bytes // 20 < page_bytes + 1


def test_a_leader_enters_with_limit_and_group(tmp_path: Path) -> None:
    """The limit first: there is no moment without it."""
    stand_in(tmp_path / "job-7")

    cgroups.enter(cgroups.job_path(str(tmp_path), 7), 100 << 20)

    written = {name.name: name.read_text() for name in (tmp_path / "job-7").iterdir()}
    assert written["memory.max"] == str(105 << 20)
    assert written["memory.oom.group"] == "1"
    assert written["cgroup.procs"] == str(os.getpid())


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    """The cgroup is there for the peak."""
    stand_in(tmp_path / "job-7")

    cgroups.enter(f"{tmp_path}/job-7", 0)

    assert (tmp_path / "job-7" / "memory.max").read_text() == ""
    assert (tmp_path / "job-7" / "cgroup.procs").read_text() == str(os.getpid())


def test_what_cannot_be_entered_is_not_left_behind(tmp_path: Path) -> None:
    """A directory that is no cgroup: nothing can be written in it."""
    with pytest.raises(FileNotFoundError):
        cgroups.enter(f"{tmp_path}/job-7", 1 << 20)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("events", "kills"),
    [
        (EVENTS.format(max=0, oom=0, oom_kill=0), OomKills(0, False)),
        (EVENTS.format(max=9, oom=1, oom_kill=3), OomKills(3, True)),
        (EVENTS.format(max=0, oom=0, oom_kill=2), OomKills(2, False)),
        (EVENTS.format(max=9, oom=1, oom_kill=0) + "oom_group_kill 1\n", OomKills(1, True)),
        ("", OomKills(0, False)),
        ("torn", None),
    ],
    ids=["none", "own limit", "host", "group", "empty", "torn"],
)
def test_whom_the_kernel_killed(tmp_path: Path, events: str, kills: OomKills | None) -> None:
    """And whether the job's own limit was the reason."""
    stand_in(tmp_path / "job-7", events=events)
    assert cgroups.oom_kills(f"{tmp_path}/job-7") == kills


def test_the_peak(tmp_path: Path) -> None:
    """None where the kernel has no such file, or there is no cgroup."""
    stand_in(tmp_path / "job-7", peak_bytes=123456)
    assert cgroups.peak_bytes(f"{tmp_path}/job-7") == 123456
    assert cgroups.peak_bytes(f"{tmp_path}/job-8") is None
    assert cgroups.oom_kills(f"{tmp_path}/job-8") is None


@pytest.mark.root
@isolated
def test_kills_of_the_host_are_counted() -> None:
    """Exactly: a real kill, in a cgroup of its own, is one more."""

    def hog() -> None:
        Path(path, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        bytearray(b"x") * (256 << 20)

    before = cgroups.host_oom_kills()
    assert before is not None
    with limited(32 << 20) as path:
        os.waitpid(fork(hog), 0)

    after = cgroups.host_oom_kills()
    assert after is not None
    assert after > before


@pytest.mark.root
@isolated
def test_a_cgroup_is_removed_with_what_the_job_made_below(tmp_path: Path) -> None:
    """As soon as nobody is in it; zombies do not count."""
    own = mount_cgroup2(tmp_path / "cg")
    os.makedirs(f"{own}/job-7/inner/deep")
    zombie = fork(lambda: Path(f"{own}/job-7/cgroup.procs").write_text("0", encoding="ascii"))
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)

    assert cgroups.remove(f"{own}/job-7")

    assert not os.path.exists(f"{own}/job-7")
    assert cgroups.remove(f"{own}/job-7"), "gone is gone"
    os.rmdir(own)


@pytest.mark.root
@isolated
def test_a_cgroup_with_somebody_in_it_stays(tmp_path: Path) -> None:
    """Its removal is given up after a while."""
    own = mount_cgroup2(tmp_path / "cg")
    os.mkdir(f"{own}/job-7")
    pid = sleeper()
    Path(f"{own}/job-7/cgroup.procs").write_text(str(pid), encoding="ascii")

    assert not cgroups.remove(f"{own}/job-7")

    assert members(f"{own}/job-7") == {pid}
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert cgroups.remove(own)


@pytest.mark.root
@isolated
def test_a_delegated_cgroup_is_prepared(tmp_path: Path) -> None:
    """Whoever is in it goes below, and each process knows its own path."""
    own = mount_cgroup2(tmp_path / "cg")
    pids = {sleeper(), sleeper()}
    for pid in pids:
        Path(own, "cgroup.procs").write_text(str(pid), encoding="ascii")

    cgroups.prepare(own, ("memory", "no such"))
    cgroups.prepare(own, ("memory", "no such"))

    assert members(own) == set()
    assert members(f"{own}/agent") == pids
    assert {cgroups.of_process(pid) for pid in pids} == {f"/{os.path.basename(own)}/agent"}
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert cgroups.remove(own)


def test_of_nobody_nothing_is_known() -> None:
    """A process that is gone is in no cgroup."""
    assert cgroups.of_process((1 << 22) + 1) is None
