"""What the host has left, or what a container may use of it."""

from __future__ import annotations

import os
import statistics
import time

import pytest

from agentd.system.memory.host import HostGauge
from agentd.system.memory.kills import oom_kills
from tests.helpers.descriptors import held
from tests.unit.agentd.system.memory.rigs import fresh, lay_out

GIB = 1 << 30
# Captured on a host of 16 GiB.
_MEMINFO = """\
MemTotal:       16384000 kB
MemFree:         9000000 kB
MemAvailable:   12000000 kB
Buffers:          581696 kB
Cached:          1392916 kB
SwapCached:            0 kB
SwapTotal:       2097148 kB
SwapFree:        1048576 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""
_V2_MOUNT = (
    "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
    "31 22 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2"
    " rw,nsdelegate,memory_recursiveprot\n"
)
_V1_MOUNT = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
_V1_CGROUP = "9:name=systemd:/\n5:devices:/\n4:memory:/docker/abc\n1:cpu:/\n0::/\n"
_SESSION = "user.slice/user-1000.slice"


def _stat(inactive: int, active: int, slab: int = 0) -> str:
    return (
        f"anon 1000\nfile {inactive + active}\nkernel_stack 16384\nshmem 0\n"
        f"inactive_anon 1000\nactive_anon 0\ninactive_file {inactive}\nactive_file {active}\n"
        f"unevictable 0\nslab_reclaimable {slab}\nslab_unreclaimable 5\n"
    )


def _gauge(directory: object, cgroup: str, mounts: str, files: dict[str, str]) -> HostGauge:
    tree = {"proc/meminfo": _MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    path = lay_out(str(directory), {**tree, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}})
    return HostGauge(f"{path}/proc", path)


def _read(gauge: HostGauge, at_ns: int = 1) -> tuple[int, int]:
    sample = gauge.read(at_ns)
    assert sample.at_ns == at_ns
    return sample.total_bytes, sample.available_bytes


_WHOLE = (16384000 << 10, 12000000 << 10)


@fresh
def test_the_real_host_has_what_meminfo_says() -> None:
    """As far as no cgroup of ours has less."""
    before = held()
    gauge = HostGauge()
    sample = gauge.read(5)
    physical_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < sample.available_bytes < sample.total_bytes <= physical_bytes
    assert sample.swap_free_bytes <= sample.swap_total_bytes
    gauge.close()
    assert held() <= before


@fresh
def test_a_look_costs_microseconds() -> None:
    """Fifty times the goal, so that no other work on the machine can fail it."""
    gauge = HostGauge()
    costs_ns = []
    for at_ns in range(200):
        began_ns = time.perf_counter_ns()
        gauge.read(at_ns)
        costs_ns.append(time.perf_counter_ns() - began_ns)
    gauge.close()
    assert statistics.median(costs_ns) < 500_000


def test_swap_is_told_and_not_added(tmp_path: object) -> None:
    """What is only to be had by swapping is no headroom."""
    gauge = _gauge(tmp_path, "0::/\n", _V2_MOUNT, {})
    sample = gauge.read(1)
    assert (sample.total_bytes, sample.available_bytes) == _WHOLE
    assert (sample.swap_total_bytes, sample.swap_free_bytes) == (2097148 << 10, 1048576 << 10)
    gauge.close()


def test_a_version_2_limit_counts_file_cache_as_available(tmp_path: object) -> None:
    """4 GiB, 3 of them used, 1.5 of these file cache."""
    gauge = _gauge(
        tmp_path,
        f"0::/{_SESSION}\n",
        _V2_MOUNT,
        {
            f"{_SESSION}/memory.max": f"{4 * GIB}\n",
            f"{_SESSION}/memory.current": f"{3 * GIB}\n",
            f"{_SESSION}/memory.stat": _stat(GIB, GIB // 4, GIB // 4),
            "user.slice/memory.max": "max\n",
            "user.slice/memory.current": f"{9 * GIB}\n",
        },
    )
    assert _read(gauge) == (4 * GIB, 2 * GIB + GIB // 2)
    gauge.close()


def test_the_tightest_of_nested_limits_counts(tmp_path: object) -> None:
    """The outer one is larger and has less left, for others are in it as well."""
    gauge = _gauge(
        tmp_path,
        f"0::/{_SESSION}\n",
        _V2_MOUNT,
        {
            f"{_SESSION}/memory.max": f"{4 * GIB}\n",
            f"{_SESSION}/memory.current": f"{GIB}\n",
            f"{_SESSION}/memory.stat": _stat(0, 0),
            "user.slice/memory.max": f"{8 * GIB}\n",
            "user.slice/memory.current": f"{7 * GIB}\n",
            "user.slice/memory.stat": _stat(GIB, 0),
        },
    )
    assert _read(gauge) == (4 * GIB, 2 * GIB)
    gauge.close()


def test_memory_stat_is_not_read_while_the_limit_leaves_more_than_the_host(
    tmp_path: object,
) -> None:
    """It is the dear part."""
    gauge = _gauge(
        tmp_path,
        f"0::/{_SESSION}\n",
        _V2_MOUNT,
        {f"{_SESSION}/memory.max": f"{15 * GIB}\n", f"{_SESSION}/memory.current": f"{GIB}\n"},
    )
    assert _read(gauge) == (15 * GIB, _WHOLE[1])
    gauge.close()


@pytest.mark.parametrize("root", ["/", "/docker/abc"])
def test_a_version_1_limit_is_found_from_outside_and_from_inside(
    tmp_path: object, root: str
) -> None:
    """A container sees its own cgroup as the mount point; hybrid: version 2 holds no memory."""
    mounts = _V1_MOUNT.replace("0:32 / ", f"0:32 {root} ")
    below = "memory/docker/abc" if root == "/" else "memory"
    gauge = _gauge(
        tmp_path,
        _V1_CGROUP,
        mounts,
        {
            f"{below}/memory.limit_in_bytes": f"{2 * GIB}\n",
            f"{below}/memory.usage_in_bytes": f"{2 * GIB}\n",
            f"{below}/memory.use_hierarchy": "1\n",
            f"{below}/memory.stat": "cache 5\ninactive_file 1\nactive_file 1\n"
            f"total_cache 5\ntotal_inactive_file {GIB}\ntotal_active_file 4096\n",
        },
    )
    assert _read(gauge) == (2 * GIB, GIB + 4096)
    gauge.close()


def test_version_1_without_a_limit_is_no_limit(tmp_path: object) -> None:
    """The kernel shows the largest number of pages there is."""
    gauge = _gauge(
        tmp_path,
        _V1_CGROUP,
        _V1_MOUNT,
        {
            "memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/docker/abc/memory.usage_in_bytes": "5\n",
        },
    )
    assert _read(gauge) == _WHOLE
    gauge.close()


def test_a_parent_without_hierarchy_does_not_limit_its_children(tmp_path: object) -> None:
    """Version 1, memory.use_hierarchy of 0."""
    gauge = _gauge(
        tmp_path,
        _V1_CGROUP,
        _V1_MOUNT,
        {
            "memory/docker/memory.limit_in_bytes": f"{GIB}\n",
            "memory/docker/memory.usage_in_bytes": f"{GIB}\n",
            "memory/docker/memory.stat": "",
            "memory/docker/memory.use_hierarchy": "0\n",
        },
    )
    assert _read(gauge) == _WHOLE
    gauge.close()


def test_behind_lxcfs_the_limit_is_not_applied_twice(tmp_path: object) -> None:
    """Its meminfo shows the container's limit as the total already."""
    gauge = _gauge(
        tmp_path,
        "0::/\n",
        _V2_MOUNT,
        {"memory.max": f"{16384000 << 10}\n", "memory.current": f"{15 * GIB}\n"},
    )
    assert _read(gauge) == _WHOLE
    gauge.close()


@pytest.mark.parametrize("own", ["0::/../../other\n", "", "x\n", "0::\n", "4:memory\n", "\xff::"])
@pytest.mark.parametrize("mounts", ["", "x\n", "31 22 0:27 / - cgroup2\n", _V2_MOUNT])
def test_odd_cgroups_leave_the_host_as_it_is(tmp_path: object, own: str, mounts: str) -> None:
    """And raise nothing."""
    gauge = _gauge(tmp_path, own, mounts, {"memory.max": "odd\n", "other/memory.max": "1\n"})
    assert _read(gauge) == _WHOLE
    gauge.close()


def test_a_mount_point_with_a_blank_is_found(tmp_path: object) -> None:
    """The kernel writes it as octal."""
    mounts = _V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/a\\040b ")
    files = {"a b/memory.max": f"{GIB}\n", "a b/memory.current": "0\n", "a b/memory.stat": ""}
    gauge = _gauge(tmp_path, "0::/\n", mounts, files)
    assert _read(gauge) == (GIB, GIB)
    gauge.close()


def test_a_changed_limit_is_found_within_ten_seconds(tmp_path: object) -> None:
    """And one whose cgroup is gone at once."""
    gauge = _gauge(tmp_path, "0::/\n", _V2_MOUNT, {"memory.max": "max\n", "memory.current": "0\n"})
    assert _read(gauge) == _WHOLE
    lay_out(str(tmp_path), {"sys/fs/cgroup/memory.max": f"{GIB}\n"})
    lay_out(str(tmp_path), {"sys/fs/cgroup/memory.stat": ""})
    assert _read(gauge, 9_999_999_999) == _WHOLE
    assert _read(gauge, 10_000_000_001) == (GIB, GIB)
    lay_out(str(tmp_path), {"sys/fs/cgroup/memory.current": ""})
    lay_out(str(tmp_path), {"sys/fs/cgroup/memory.max": "max\n"})
    assert _read(gauge, 10_000_000_002) == _WHOLE
    assert gauge.read(10_000_000_003).total_bytes == _WHOLE[0]
    assert gauge._limits == []
    gauge.close()


@pytest.mark.parametrize(
    "meminfo", ["", "MemTotal:  5", "MemTotal: x kB\n", "MemTotal: 0 kB\n", "\0"]
)
def test_what_cannot_be_read_is_an_old_sample_and_never_an_error(
    tmp_path: object, meminfo: str
) -> None:
    """Its time says so."""
    gauge = _gauge(tmp_path, "", "", {})
    first = gauge.read(1)
    lay_out(str(tmp_path), {"proc/meminfo": meminfo})
    assert gauge.read(2) == first
    gauge.close()


def test_without_meminfo_the_kernel_is_asked_another_way() -> None:
    """sysinfo(2) is always there."""
    gauge = HostGauge("/nowhere", "/nowhere")
    sample = gauge.read(3)
    assert 0 < sample.available_bytes < sample.total_bytes
    gauge.close()


def test_kernel_kills_are_counted_where_the_kernel_counts_them(tmp_path: object) -> None:
    """Since Linux 4.13; the real one has the counter."""
    assert isinstance(oom_kills(), int)
    path = lay_out(
        str(tmp_path), {"v": "nr_free 1\noom_kill 3\n", "old": "nr_free 1\n", "x": "oom_kill"}
    )
    assert oom_kills(f"{path}/v") == 3
    assert [oom_kills(f"{path}/{name}") for name in ("old", "x", "none")] == [None] * 3
